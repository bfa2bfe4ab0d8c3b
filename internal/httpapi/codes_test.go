package httpapi_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
)

// Every code that this package, the domain or the keys can answer has a status,
// and is documented; and no others.
func TestEveryCodeHasAStatusAndIsDocumented(t *testing.T) {
	declared := map[string]bool{}
	for _, dir := range []string{".", "../bastion", "../httpedge", "../publickey"} {
		maps.Copy(declared, declaredCodes(t, dir))
	}
	if len(declared) < 30 {
		t.Fatalf("only %d codes found: %v", len(declared), declared)
	}
	same(t, "declared", declared, "in the table", inTable())

	schema := contract(t).Components.Schemas["Problem"].Value.Properties["code"].Value
	documented := map[string]bool{}
	for _, code := range schema.Enum {
		documented[code.(string)] = true
		if !strings.Contains(schema.Description, "| `"+code.(string)+"` |") {
			t.Errorf("%s is not described", code)
		}
	}
	same(t, "declared", declared, "documented", documented)

	atOperations := map[string]bool{"path_not_found": true, "method_not_allowed": true} // of no operation
	for answer := range documentedAnswers(contract(t)) {
		words := strings.Fields(answer)
		if code := words[3]; !strings.Contains(code, "/") {
			atOperations[code] = true
			if want := strconv.Itoa(httpapi.Statuses[bastion.Code(code)]); want != words[2] {
				t.Errorf("%s is documented, but the table says %s", answer, want)
			}
		}
	}
	same(t, "documented", documented, "at some operation", atOperations)
}

func inTable() map[string]bool {
	all := map[string]bool{}
	for code := range httpapi.Statuses {
		all[string(code)] = true
	}
	return all
}

func same(t *testing.T, nameA string, a map[string]bool, nameB string, b map[string]bool) {
	t.Helper()
	for _, code := range slices.Sorted(maps.Keys(a)) {
		if !b[code] {
			t.Errorf("%s is %s but not %s", code, nameA, nameB)
		}
	}
	for _, code := range slices.Sorted(maps.Keys(b)) {
		if !a[code] {
			t.Errorf("%s is %s but not %s", code, nameB, nameA)
		}
	}
}

// declaredCodes finds the constants of type bastion.Code in a folder's files.
func declaredCodes(t *testing.T, dir string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if spec, ok := n.(*ast.ValueSpec); ok && isCode(spec.Type) {
				for _, value := range spec.Values {
					code, err := strconv.Unquote(value.(*ast.BasicLit).Value)
					if err != nil {
						t.Fatal(err)
					}
					codes[code] = true
				}
			}
			return true
		})
	}
	return codes
}

func isCode(typ ast.Expr) bool {
	switch typ := typ.(type) {
	case *ast.Ident:
		return typ.Name == "Code"
	case *ast.SelectorExpr:
		return typ.Sel.Name == "Code"
	}
	return false
}
