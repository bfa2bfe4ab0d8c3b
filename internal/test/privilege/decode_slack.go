package privilege

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
)

// The parts of an Invoke's path; a function may be named by its ARN.
var (
	invocations = regexp.MustCompile(`^/2015-03-31/functions/([^/]+)/invocations$`)
	functionARN = regexp.MustCompile(`^arn:[\w-]+:lambda:[\w-]+:\d{12}:function:`)
)

// Invoked is the function that a request invokes, as NAME or NAME:QUALIFIER, in
// whichever of Lambda's ways it names it. Empty: the request is no Invoke.
func Invoked(r *http.Request) string {
	match := invocations.FindStringSubmatch(r.URL.Path)
	if r.Method != http.MethodPost || match == nil {
		return ""
	}
	name := functionARN.ReplaceAllString(match[1], "")
	if qualifier := r.URL.Query().Get("Qualifier"); qualifier != "" {
		name += ":" + qualifier
	}
	return name
}

// lambda reads a call of Lambda's. IAM takes a function and each of its aliases for
// resources of their own.
func (d Deployment) lambda(r *http.Request) ([]Call, error) {
	name := Invoked(r)
	on, ours := d.Functions[name]
	switch {
	case name == "":
		return nil, fmt.Errorf("calls Lambda for %s %s, which is no Invoke", r.Method, r.URL.Path)
	case !ours:
		return nil, fmt.Errorf("invokes %s, which is none of the stack's", name)
	}
	return []Call{{"lambda:Invoke", on}}, nil
}

// ssm reads a call of Parameter Store's: each parameter needs its own permission.
func (d Deployment) ssm(operation string, body []byte) ([]Call, error) {
	var in struct{ Names []string }
	if err := json.Unmarshal(body, &in); err != nil || len(in.Names) == 0 {
		return nil, fmt.Errorf("calls ssm:%s with no list of names: %v", operation, err)
	}
	var calls []Call
	for _, name := range in.Names {
		on, ours := d.Parameters[name]
		if !ours {
			return nil, fmt.Errorf("calls ssm:%s for %s, which is none of the stack's", operation, strings.Join(in.Names, ", "))
		}
		calls = append(calls, Call{"ssm:" + operation, on})
	}
	return calls, nil
}
