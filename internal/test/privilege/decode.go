package privilege

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// Deployment identifies a stack's resources in requests. The conditions of roles are
// evaluated from the request: its tags, cluster, VPC and key.
type Deployment struct {
	StackID string            // the value of the tag bastion:stack
	Cluster string            // its ARN
	VPC     string            // its ID
	Tables  map[string]string // from a table's name to its name in template.yaml

	// In a stack with Slack: from a function's NAME or an alias's NAME:ALIAS to its name
	// in template.yaml, and from the name of a parameter in Parameter Store to its resource.
	Functions  map[string]string
	Parameters map[string]string
}

const stackTag = "bastion:stack"

// signedFor matches the service in the scope of a signature.
var signedFor = regexp.MustCompile(`Credential=[^/]+/\d{8}/[^/]+/([^/]+)/aws4_request`)

// serviceOf returns the service that a request is signed for.
func serviceOf(header http.Header) string {
	if match := signedFor.FindStringSubmatch(header.Get("Authorization")); match != nil {
		return match[1]
	}
	return "an unsigned service"
}

// Calls returns the API calls that a request makes. userID is the value of ${aws:userid}
// for a task, and empty for a function, which has no item of its own. An error describes
// a call that no role may allow.
func (d Deployment) Calls(r *http.Request, body []byte, userID string) ([]Call, error) {
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	switch service := serviceOf(r.Header); service {
	case "dynamodb":
		return d.dynamodb(operation, body, userID)
	case "ecs":
		return d.ecs(operation, body)
	case "ec2":
		return d.ec2(body)
	case "lambda":
		return d.lambda(r)
	case "ssm":
		return d.ssm(operation, body)
	default:
		return nil, fmt.Errorf("calls %s, which no function and no task uses", service)
	}
}

// part is one action of a transaction.
type part struct{ TableName string }

func (d Deployment) dynamodb(operation string, body []byte, userID string) ([]Call, error) {
	var in struct {
		TableName, IndexName string
		Key                  map[string]struct{ S string }
		TransactItems        []map[string]part
		RequestItems         map[string]any
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, fmt.Errorf("sends dynamodb:%s in an unknown form: %w", operation, err)
	}
	api := "dynamodb:" + operation
	var calls []Call
	var unknown error
	add := func(api, table string) {
		on, ours := d.Tables[table]
		if !ours {
			unknown = fmt.Errorf("calls %s on the table %q, which is not the stack's", api, table)
		}
		if in.IndexName != "" {
			on += "/index/" + in.IndexName
		}
		calls = append(calls, Call{api, on})
	}
	switch operation {
	case "TransactWriteItems":
		for _, item := range in.TransactItems {
			for kind, part := range item {
				add(api+" "+kind, part.TableName)
			}
		}
	case "BatchGetItem":
		for table := range in.RequestItems {
			add(api, table)
		}
	default:
		if userID != "" && in.Key["task"].S == userID {
			api += " own"
		}
		add(api, in.TableName)
	}
	return calls, unknown
}

func (d Deployment) ecs(operation string, body []byte) ([]Call, error) {
	var in struct {
		Cluster string
		Tags    []struct{ Key, Value string }
	}
	if err := json.Unmarshal(body, &in); err != nil {
		return nil, fmt.Errorf("sends ecs:%s in an unknown form: %w", operation, err)
	}
	if in.Cluster != d.Cluster {
		return nil, fmt.Errorf("calls ecs:%s in the cluster %q, which is not the stack's", operation, in.Cluster)
	}
	api := "ecs:" + operation
	for _, tag := range in.Tags {
		if tag.Key == stackTag && tag.Value == d.StackID {
			api += " tagged"
		}
	}
	return []Call{{API: api}}, nil
}

func (d Deployment) ec2(body []byte) ([]Call, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, fmt.Errorf("sends EC2 a body that is not a form: %w", err)
	}
	api := "ec2:" + form.Get("Action")
	if vpc := form.Get("VpcId"); vpc != "" && vpc != d.VPC {
		return nil, fmt.Errorf("calls %s in the VPC %s, which is not the stack's", api, vpc)
	}
	const tag = "TagSpecification.1.Tag."
	for i := 1; form.Has(fmt.Sprintf("%s%d.Key", tag, i)); i++ {
		if form.Get(fmt.Sprintf("%s%d.Key", tag, i)) == stackTag && form.Get(fmt.Sprintf("%s%d.Value", tag, i)) == d.StackID {
			api += " tagged"
		}
	}
	return []Call{{API: api}}, nil
}

// The path of an Invoke, which may have a function's ARN for its name.
var (
	invocations = regexp.MustCompile(`^/2015-03-31/functions/([^/]+)/invocations$`)
	functionARN = regexp.MustCompile(`^arn:[\w-]+:lambda:[\w-]+:\d{12}:function:`)
)

// Invoked returns the function that a request invokes, as NAME or NAME:QUALIFIER, for all
// forms of the name that Lambda accepts. It is empty if the request is not an Invoke.
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

// lambda decodes a call of Lambda. For IAM, a function and each of its aliases are
// separate resources.
func (d Deployment) lambda(r *http.Request) ([]Call, error) {
	name := Invoked(r)
	on, ours := d.Functions[name]
	switch {
	case name == "":
		return nil, fmt.Errorf("calls Lambda for %s %s, which is not an Invoke", r.Method, r.URL.Path)
	case !ours:
		return nil, fmt.Errorf("invokes %s, which is not the stack's", name)
	}
	return []Call{{"lambda:Invoke", on}}, nil
}

// ssm decodes a call of Parameter Store. Each parameter needs its own permission.
func (d Deployment) ssm(operation string, body []byte) ([]Call, error) {
	var in struct{ Names []string }
	if err := json.Unmarshal(body, &in); err != nil || len(in.Names) == 0 {
		return nil, fmt.Errorf("calls ssm:%s without a list of names: %v", operation, err)
	}
	var calls []Call
	for _, name := range in.Names {
		on, ours := d.Parameters[name]
		if !ours {
			return nil, fmt.Errorf("calls ssm:%s for %s, which are not all the stack's", operation, strings.Join(in.Names, ", "))
		}
		calls = append(calls, Call{"ssm:" + operation, on})
	}
	return calls, nil
}
