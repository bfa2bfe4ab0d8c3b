package deploy

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

func TestZipIsReproducibleAndExecutable(t *testing.T) {
	one, err := zipped([]byte("the executable"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := zipped([]byte("the executable"))
	if err != nil || !bytes.Equal(one, other) {
		t.Errorf("the same executable gives different files: %v", err)
	}
	archive, err := zip.NewReader(bytes.NewReader(one), int64(len(one)))
	if err != nil || len(archive.File) != 1 {
		t.Fatalf("%v, %+v", err, archive)
	}
	file := archive.File[0]
	if file.Name != "bootstrap" || file.Mode() != 0o755 || file.Modified.Year() != 1980 {
		t.Errorf("the file is %s, %s, %s", file.Name, file.Mode(), file.Modified)
	}
	r, err := file.Open()
	if err != nil {
		t.Fatal(err)
	}
	if content, err := io.ReadAll(r); err != nil || string(content) != "the executable" {
		t.Errorf("%q, %v", content, err)
	}
	sum := sha256.Sum256(one)
	if key := newObject("", "functions/", ".zip", one).key; key != "functions/"+hex.EncodeToString(sum[:])+".zip" {
		t.Errorf("the key is %s", key)
	}
}

// The progress of an upload starts again if the SDK repeats the request.
// The bucket was deleted, and another account has created one of the same name, which has
// the code already, with the right checksum.
func TestCodeInTheBucketOfAnotherAccountIsNotDeployed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld()
		if err := w.deployment().Deploy(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.owner = "444455556666"
		w.takeCalls()
		err := w.deployment().Deploy(t.Context())
		if err == nil || !strings.Contains(err.Error(), "look for the code of CreateFunction") || slices.Contains(w.calls, "CreateChangeSet bastion") || len(w.takeCalls("PutObject")) > 0 {
			t.Errorf("%v\n%s", err, w.out.String())
		}
	})
}

func TestProgressOfAnUploadFollowsThePosition(t *testing.T) {
	c := &counted{content: bytes.NewReader(make([]byte, 100))}
	for _, test := range []struct {
		read int64
		from int64 // read from here
		want int64
	}{{40, 0, 40}, {10, 0, 10}, {200, 50, 100}} {
		if _, err := c.Seek(test.from, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, c, test.read); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if got := c.at.Load(); got != test.want {
			t.Errorf("after %d bytes from %d, the position is %d", test.read, test.from, got)
		}
	}
}

// flat lists the leaves of YAML nodes as "path tag value".
func flat(path string, n *yaml.Node) (all []string) {
	switch n.Kind {
	case yaml.DocumentNode:
		return flat(path, n.Content[0])
	case yaml.MappingNode:
		all = append(all, path+" "+n.Tag)
		for i := 0; i < len(n.Content); i += 2 {
			all = append(all, flat(path+"/"+n.Content[i].Value, n.Content[i+1])...)
		}
	case yaml.SequenceNode:
		all = append(all, path+" "+n.Tag)
		for i, element := range n.Content {
			all = append(all, flat(fmt.Sprintf("%s/%d", path, i), element)...)
		}
	default:
		all = append(all, fmt.Sprintf("%s %s %q", path, n.Tag, n.Value))
	}
	return all
}

func parsed(t *testing.T, text []byte) []string {
	t.Helper()
	var n yaml.Node
	if err := yaml.Unmarshal(text, &n); err != nil {
		t.Fatal(err)
	}
	return flat("", &n)
}

// Nothing but CodeUri differs between template.yaml and what is uploaded.
func TestTemplateWithCodeDiffersInCodeUriOnly(t *testing.T) {
	service, err := readTemplate("../..", templateFile)
	if err != nil {
		t.Fatal(err)
	}
	names, err := service.functions()
	if err != nil || len(names) != 7 {
		t.Fatalf("the functions are %q: %v", names, err)
	}
	var functions []function
	want := slices.DeleteFunc(parsed(t, service.text), func(leaf string) bool { return strings.HasPrefix(leaf, "/Globals/Function/CodeUri ") })
	for _, name := range names {
		code := newObject("", "functions/", ".zip", []byte(name))
		functions = append(functions, function{name, code})
		at := "/Resources/" + name + "/Properties/CodeUri"
		want = append(want, at+" !!map", at+`/Bucket !!str "bucket"`, fmt.Sprintf("%s/Key !!str %q", at, code.key))
	}
	text, err := service.withCode("bucket", functions)
	if err != nil {
		t.Fatal(err)
	}
	got := parsed(t, text)
	slices.Sort(got)
	slices.Sort(want)
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("leaf %d of %d, want %d:\n got %q\nwant %q", i, len(got), len(want), got[min(i, len(got)-1)], want[min(i, len(want)-1)])
		}
	}
	if again, err := service.withCode("bucket", functions); err != nil || !bytes.Equal(text, again) {
		t.Errorf("the same code gives different templates: %v", err)
	}
}

func TestTemplatesThatCannotBeBuiltAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"[1]":           "not a mapping",
		"{":             "read template.yaml",
		"Transform: x":  "no resources",
		"Resources: {}": "no functions",
		"Resources: {F: {Type: AWS::Serverless::Function}}":                                         "F does not have the BuildMethod makefile",
		"Resources: {F: {Type: AWS::Serverless::Function, Metadata: {BuildMethod: go1.x}}}":         "F does not have the BuildMethod makefile",
		"Resources: {F: {Type: AWS::Lambda::Function, Metadata: {BuildMethod: makefile}}}":          "no functions",
		"Resources: {F: {Type: !Sub AWS::Serverless::Function, Metadata: {BuildMethod: makefile}}}": "",
	} {
		parsed, err := parseTemplate(templateFile, []byte(text))
		if err == nil {
			_, err = parsed.functions()
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", text, err)
		}
	}
	other, err := parseTemplate(templateFile, []byte("Resources: {F: {Type: X}}"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.withCode("b", []function{{name: "F"}}); err == nil || !strings.Contains(err.Error(), "no function F") {
		t.Error(err)
	}
}
