package deploy

import (
	"archive/zip"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v4"
)

// function is a function of the template, and its code once it is compiled.
type function struct {
	name string // the logical ID
	code object
}

// buildFunctions compiles the functions by the Makefile's targets build-LOGICALID, which
// `sam build` calls too, in a temporary folder.
func (d *Deployment) buildFunctions(ctx context.Context, t template) (all []function, err error) {
	names, err := t.functions()
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp("", "bastion-functions-")
	if err != nil {
		return nil, fmt.Errorf("create a folder for the functions: %w", err)
	}
	defer os.RemoveAll(folder)
	for _, name := range names {
		code, err := d.buildFunction(ctx, name, filepath.Join(folder, name))
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(d.Progress.W, "compiled %s: %s zipped\n", name, megabytes(int64(len(code.content))))
		all = append(all, function{name, code})
	}
	return all, nil
}

func (d *Deployment) buildFunction(ctx context.Context, name, folder string) (object, error) {
	if err := os.Mkdir(folder, 0o700); err != nil {
		return object{}, fmt.Errorf("create a folder for %s: %w", name, err)
	}
	if err := d.Runner.Run(ctx, "make", buildArguments(name, folder)...); err != nil {
		return object{}, err
	}
	bootstrap, err := os.ReadFile(filepath.Join(folder, "bootstrap"))
	if err != nil {
		return object{}, fmt.Errorf("read what make build-%s wrote: %w", name, err)
	}
	content, err := zipped(bootstrap)
	if err != nil {
		return object{}, fmt.Errorf("zip the code of %s: %w", name, err)
	}
	return newObject("the code of "+name, "functions/", ".zip", content), nil
}

func buildArguments(name, folder string) []string {
	return []string{"--silent", "--no-print-directory", "build-" + name, "ARTIFACTS_DIR=" + folder}
}

// zipped returns a zip file with the executable bootstrap. The same executable gives the
// same file: its time is the earliest that the format has.
func zipped(bootstrap []byte) ([]byte, error) {
	var out bytes.Buffer
	archive := zip.NewWriter(&out)
	header := &zip.FileHeader{Name: "bootstrap", Method: zip.Deflate, Modified: time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)}
	header.SetMode(0o755)
	entry, err := archive.CreateHeader(header)
	if err != nil {
		return nil, err
	}
	if _, err := entry.Write(bootstrap); err != nil {
		return nil, err
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// field returns the value at a path of keys, or nil.
func field(node *yaml.Node, path ...string) *yaml.Node {
	for _, key := range path {
		var found *yaml.Node
		for i := 0; node != nil && node.Kind == yaml.MappingNode && i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == key {
				found = node.Content[i+1]
			}
		}
		node = found
	}
	return node
}

// set sets a key of a mapping, and remove removes it.
func set(mapping *yaml.Node, key string, value *yaml.Node) {
	remove(mapping, key)
	mapping.Content = append(mapping.Content, scalar(key), value)
}

func remove(mapping *yaml.Node, key string) {
	for i := 0; mapping != nil && i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			mapping.Content = append(mapping.Content[:i:i], mapping.Content[i+2:]...)
			return
		}
	}
}

func scalar(text string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
}

// functions returns the logical IDs of the functions in the template's order. The
// Makefile must have a target for each.
func (t template) functions() (names []string, err error) {
	resources := field(t.root, "Resources")
	if resources == nil {
		return nil, fmt.Errorf("%s has no resources", templateFile)
	}
	for i := 0; i+1 < len(resources.Content); i += 2 {
		name, resource := resources.Content[i].Value, resources.Content[i+1]
		if kind := field(resource, "Type"); kind == nil || kind.Value != "AWS::Serverless::Function" {
			continue
		}
		if method := field(resource, "Metadata", "BuildMethod"); method == nil || method.Value != "makefile" {
			return nil, fmt.Errorf("%s: %s does not have the BuildMethod makefile, so it cannot be compiled", templateFile, name)
		}
		names = append(names, name)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s has no functions", templateFile)
	}
	return names, nil
}

// withCode sets the code of each function in the nodes to the one in the bucket, and
// returns their text. Those are the values that the SAM transform accepts:
// "AWS::Serverless::Function" in the AWS SAM Developer Guide, CodeUri as a FunctionCode
// object.
func (t template) withCode(bucket string, functions []function) ([]byte, error) {
	remove(field(t.root, "Globals", "Function"), "CodeUri")
	for _, f := range functions {
		properties := field(t.root, "Resources", f.name, "Properties")
		if properties == nil {
			return nil, fmt.Errorf("%s has no function %s with properties", templateFile, f.name)
		}
		location := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		set(location, "Bucket", scalar(bucket))
		set(location, "Key", scalar(f.code.key))
		set(properties, "CodeUri", location)
	}
	out, err := yaml.Dump(t.root, yaml.WithIndent(2), yaml.WithLineWidth(-1))
	if err != nil {
		return nil, fmt.Errorf("write the template with the code's places: %w", err)
	}
	return out, nil
}
