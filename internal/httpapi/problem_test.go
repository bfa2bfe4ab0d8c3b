package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// The client sees the message of a *bastion.Error, and of no other error.
func TestServiceErrorBecomesAProblem(t *testing.T) {
	cause := errors.New("dynamodb: ValidationException at 10.1.2.3")
	for name, test := range map[string]struct {
		err    error
		status int
		code   string
		level  string
		logged bool // the cause is in the log
	}{
		"for people":            {bastion.Errorf(bastion.CodeNotOpen, "It is closing."), 409, "not_open", "INFO", false},
		"for people, wrapped":   {fmt.Errorf("extend: %w", bastion.Errorf(bastion.CodeNotOpen, "It is closing.")), 409, "not_open", "INFO", false},
		"with a cause":          {&bastion.Error{Code: bastion.CodeBusy, Message: "Try again.", Cause: cause}, 503, "busy", "WARN", true},
		"internal":              {fmt.Errorf("fetch: %w", cause), 500, "internal", "ERROR", true},
		"an unknown code":       {&bastion.Error{Code: "odd", Message: "An odd thing.", Cause: cause}, 500, "internal", "ERROR", true},
		"too late":              {fmt.Errorf("fetch: %w: %w", context.DeadlineExceeded, cause), 503, "unavailable", "WARN", true},
		"cancelled":             {fmt.Errorf("fetch: %w: %w", context.Canceled, cause), 503, "unavailable", "WARN", true},
		"for people, cancelled": {&bastion.Error{Code: bastion.CodeNotFound, Message: "None.", Cause: context.Canceled}, 404, "not_found", "INFO", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFixture()
			r.err = test.err
			w := r.send("PATCH", "/bastions/"+someID, `{"ttl":"1h"}`)
			p := readProblem(t, w)
			if w.Code != test.status || p.Code != test.code {
				t.Errorf("%d %s: %s", w.Code, p.Code, p.Detail)
			}
			if strings.Contains(p.Detail, "10.1.2.3") || strings.Contains(p.Detail, "odd") {
				t.Errorf("it shows the inside: %s", p.Detail)
			}
			if got := w.Header().Get("Retry-After") != ""; got != (test.status == 503) {
				t.Errorf("Retry-After: %t", got)
			}
			line := onlyLogLine(t, r)
			if line["level"] != test.level || strings.Contains(r.log.String(), "10.1.2.3") != test.logged {
				t.Errorf("the log says %s", r.log)
			}
		})
	}
}

func TestPanicIsAnInternalError(t *testing.T) {
	r := newFixture()
	r.crash = true
	w := r.send("GET", "/bastions", "")
	if p := readProblem(t, w); w.Code != 500 || p.Code != "internal" || !strings.Contains(p.Detail, "request-1") {
		t.Errorf("%d %s: %s", w.Code, p.Code, p.Detail)
	}
	if cause, _ := onlyLogLine(t, r)["cause"].(string); !strings.Contains(cause, "a bug") || !strings.Contains(cause, "fixture_test.go") {
		t.Errorf("the log does not say where: %s", r.log)
	}
}

func TestAccessLogFields(t *testing.T) {
	r := newFixture()
	r.rec = ready()
	r.send("GET", "/bastions/"+someID+"?token=secret", "", "Authorization", "Basic secret", "Cookie", "secret")
	line := onlyLogLine(t, r)
	for key, want := range map[string]any{
		"level": "INFO", "msg": "request", "request_id": "request-1", "method": "GET", "route": "/bastions/{id}",
		"status": 200.0, "owner": "local:alice", "source": "203.0.113.7", "duration": 0.0,
	} {
		if line[key] != want {
			t.Errorf("%s is %v, not %v", key, line[key], want)
		}
	}
	if strings.Contains(r.log.String(), "secret") || strings.Contains(r.log.String(), someID) {
		t.Errorf("the log says too much: %s", r.log)
	}
}

// A private key that a person sends by mistake must not be stored or logged.
func TestPrivateKeyIsNeverLogged(t *testing.T) {
	key := privateKey(t)
	secret := strings.Split(key, "\n")[2][:40] // a line from the middle
	for name, body := range map[string]string{
		"as it is":    key,
		"in JSON":     toJSON(key),
		"as a name":   `{` + strings.TrimPrefix(toJSON(key), `{"public_key":`) + `: 1}`,
		"bad JSON":    `{"public_key": "` + key,
		"as a source": strings.Replace(toJSON(key), "public_key", "source", 1),
		"after a key": string(userKey) + "\n" + key,
	} {
		r := newFixture()
		w := r.send("POST", "/bastions", body)
		response := w.Body.String()
		if p := readProblem(t, w); p.Code != "private_key" {
			t.Errorf("%s: %s", name, p.Code)
		}
		if strings.Contains(r.log.String(), secret) || strings.Contains(response, secret) || len(r.calls) > 0 {
			t.Errorf("%s: log %s\nanswer %s\ncalls %v", name, r.log, response, r.calls)
		}
		onlyLogLine(t, r)
	}
}

func onlyLogLine(t *testing.T, r *fixture) map[string]any {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(r.log.String()), "\n")
	var line map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &line); err != nil || len(lines) != 1 {
		t.Fatalf("not one line: %q: %v", lines, err)
	}
	return line
}

// The declared codes, the table of statuses and the contract must agree.
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
	for response := range documentedResponses(contract(t)) {
		words := strings.Fields(response)
		if code := words[3]; !strings.Contains(code, "/") {
			atOperations[code] = true
			if want := strconv.Itoa(httpapi.Statuses[bastion.Code(code)]); want != words[2] {
				t.Errorf("%s is documented, but the table says %s", response, want)
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
