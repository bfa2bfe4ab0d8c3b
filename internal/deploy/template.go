package deploy

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v4"
)

// templateFile is the service's, in the module's folder.
const templateFile = "template.yaml"

// template is what a deployment needs to know of template.yaml.
type template struct {
	Parameters map[string]struct {
		Default any `yaml:"Default"`
	} `yaml:"Parameters"`
}

func readTemplate(module string) (template, error) {
	file := filepath.Join(module, templateFile)
	text, err := os.ReadFile(file)
	if err != nil {
		return template{}, fmt.Errorf("read the template: %w; run it in the folder of the source", err)
	}
	var t template
	if err := yaml.Unmarshal(text, &t); err != nil {
		return template{}, fmt.Errorf("read %s: %w", file, err)
	}
	return t, nil
}

// unknown names parameters that the template does not have: the SAM CLI would
// leave them out without a word.
func (t template) unknown(given map[string]string) []string {
	var names []string
	for name := range given {
		if _, known := t.Parameters[name]; !known {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// value is what a parameter will be: as given, else as the stack has it, else the
// template's default.
func (t template) value(name string, given, stack map[string]string) string {
	if v, ok := given[name]; ok {
		return v
	}
	if v, ok := stack[name]; ok {
		return v
	}
	return fmt.Sprint(t.Parameters[name].Default)
}
