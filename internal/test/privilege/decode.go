package privilege

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// Deployment is what tells a stack's own things in requests. What a role's
// conditions ask of a request is looked for in the request itself: its tags, its
// cluster, its VPC, its key.
type Deployment struct {
	StackID string            // the value of the tag bastion:stack
	Cluster string            // its ARN
	VPC     string            // its id
	Tables  map[string]string // by name, what template.yaml calls them

	// Of a stack with Slack: what template.yaml calls a function, as NAME, or an
	// alias of one, as NAME:ALIAS; and parameters of Parameter Store, by name.
	Functions  map[string]string
	Parameters map[string]string
}

const stackTag = "bastion:stack"

// signedFor is the service in the scope of a signature.
var signedFor = regexp.MustCompile(`Credential=[^/]+/\d{8}/[^/]+/([^/]+)/aws4_request`)

// serviceOf is the service that a request is signed for.
func serviceOf(header http.Header) string {
	if match := signedFor.FindStringSubmatch(header.Get("Authorization")); match != nil {
		return match[1]
	}
	return "an unsigned service"
}

// Calls reads which calls a request makes, from its URL and header and from its
// body, which is given apart. userID is what ${aws:userid} is for a task; empty for a
// function, which has no item of its own. An error says in words what no role allows.
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
		return nil, fmt.Errorf("calls %s, which nothing here should", service)
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
		return nil, fmt.Errorf("sends dynamodb:%s in a form that is not known: %w", operation, err)
	}
	api := "dynamodb:" + operation
	var calls []Call
	var unknown error
	add := func(api, table string) {
		on, ours := d.Tables[table]
		if !ours {
			unknown = fmt.Errorf("calls %s on the table %q, which is none of the stack's", api, table)
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
		return nil, fmt.Errorf("sends ecs:%s in a form that is not known: %w", operation, err)
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
		return nil, fmt.Errorf("sends to EC2 what is no form: %w", err)
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
