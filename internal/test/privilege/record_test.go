package privilege

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

var deployed = Deployment{
	StackID: "stack-1", Cluster: "cluster-1", VPC: "vpc-1",
	Tables:     map[string]string{"records-1": "RecordsTable", "leases-1": "LeasesTable"},
	Functions:  map[string]string{"create": "CreateFunction", "create:slack": "${CreateSlackAlias}"},
	Parameters: map[string]string{"/secret": "parameter${Secret}", "/token": "parameter${Token}"},
}

// Each row has a service, an operation, a body and a user ID, and the calls or the error
// that follow.
func TestCallsOfRequests(t *testing.T) {
	for _, row := range []struct{ service, operation, body, userID, want string }{
		{"dynamodb", "GetItem", `{"TableName":"leases-1","Key":{"task":{"S":"A:1"}}}`, "", "dynamodb:GetItem LeasesTable"},
		{"dynamodb", "GetItem", `{"TableName":"leases-1","Key":{"task":{"S":"A:1"}}}`, "A:1", "dynamodb:GetItem own LeasesTable"},
		{"dynamodb", "GetItem", `{"TableName":"leases-1","Key":{"task":{"S":"A:2"}}}`, "A:1", "dynamodb:GetItem LeasesTable"},
		{"dynamodb", "Query", `{"TableName":"records-1","IndexName":"due"}`, "", "dynamodb:Query RecordsTable/index/due"},
		{"dynamodb", "Query", `{"TableName":"other"}`, "", "not the stack's"},
		{"dynamodb", "ListTables", `{}`, "", "not the stack's"},
		{"dynamodb", "BatchGetItem", `{"RequestItems":{"records-1":{"Keys":[]}}}`, "", "dynamodb:BatchGetItem RecordsTable"},
		{"dynamodb", "TransactWriteItems", `{"TransactItems":[{"Put":{"TableName":"records-1"}},{"Delete":{"TableName":"leases-1"}}]}`, "",
			"dynamodb:TransactWriteItems Put RecordsTable, dynamodb:TransactWriteItems Delete LeasesTable"},
		{"dynamodb", "TransactWriteItems", `{"TransactItems":[{"Put":{"TableName":"other"}},{"Put":{"TableName":"leases-1"}}]}`, "", "not the stack's"},
		{"dynamodb", "GetItem", `[]`, "", "unknown form"},
		{"ecs", "ListTasks", `{"cluster":"cluster-1"}`, "", "ecs:ListTasks "},
		{"ecs", "ListTasks", `{}`, "", "not the stack's"},
		{"ecs", "RunTask", `{"cluster":"cluster-1","tags":[{"key":"bastion:id","value":"x"},{"key":"bastion:stack","value":"stack-1"}]}`, "", "ecs:RunTask tagged "},
		{"ecs", "RunTask", `{"cluster":"cluster-1","tags":[{"key":"bastion:stack","value":"stack-2"}]}`, "", "ecs:RunTask "},
		{"ecs", "RunTask", `{"cluster":1}`, "", "unknown form"},
		{"ec2", "", "Action=DeleteSecurityGroup&GroupId=sg-1", "", "ec2:DeleteSecurityGroup "},
		{"ec2", "", "Action=CreateSecurityGroup&VpcId=vpc-1&TagSpecification.1.Tag.1.Key=bastion:stack&TagSpecification.1.Tag.1.Value=stack-1", "", "ec2:CreateSecurityGroup tagged "},
		{"ec2", "", "Action=CreateSecurityGroup&VpcId=vpc-1&TagSpecification.1.Tag.1.Key=bastion:stack&TagSpecification.1.Tag.1.Value=other", "", "ec2:CreateSecurityGroup "},
		{"ec2", "", "Action=CreateSecurityGroup&VpcId=vpc-2", "", "not the stack's"},
		{"ec2", "", "%", "", "not a form"},
		{"sts", "", "Action=GetCallerIdentity", "", "calls sts"},
		{"lambda", "create", "{}", "", "lambda:Invoke CreateFunction"},
		{"lambda", "create:slack", "{}", "", "lambda:Invoke ${CreateSlackAlias}"},
		{"lambda", "create?Qualifier=slack", "{}", "", "lambda:Invoke ${CreateSlackAlias}"},
		{"lambda", "arn:aws:lambda:eu-west-1:123456789012:function:create:slack", "{}", "", "lambda:Invoke ${CreateSlackAlias}"},
		{"lambda", "create?Qualifier=$LATEST", "{}", "", "not the stack's"},
		{"lambda", "create:slack?Qualifier=slack", "{}", "", "not the stack's"},
		{"lambda", "create/../create", "{}", "", "not an Invoke"},
		{"lambda", "another", "{}", "", "not the stack's"},
		{"ssm", "GetParameters", `{"Names":["/secret","/token"]}`, "", "ssm:GetParameters parameter${Secret}, ssm:GetParameters parameter${Token}"},
		{"ssm", "GetParameters", `{"Names":["/secret","/another"]}`, "", "not all the stack's"},
		{"ssm", "GetParametersByPath", `{"Path":"/"}`, "", "without a list of names"},
	} {
		target := "/"
		if row.service == "lambda" {
			target = "/2015-03-31/functions/" + row.operation + "/invocations"
			if name, query, found := strings.Cut(row.operation, "?"); found {
				target = "/2015-03-31/functions/" + name + "/invocations?" + query
			}
		}
		request := httptest.NewRequest(http.MethodPost, target, nil)
		request.Header = signed(row.service, row.operation)
		calls, err := deployed.Calls(request, []byte(row.body), row.userID)
		var made []string
		for _, call := range calls {
			made = append(made, call.API+" "+call.On)
		}
		got := strings.Join(made, ", ")
		if err != nil {
			got = err.Error()
		}
		if got != row.want && (err == nil || !strings.Contains(got, row.want)) {
			t.Errorf("%s %s %s: %s, want %s", row.service, row.operation, row.body, got, row.want)
		}
	}
}

// signed returns the header of a request to a service.
func signed(service, operation string) http.Header {
	return http.Header{
		"X-Amz-Target":  {"Prefix_20120810." + operation},
		"Authorization": {"AWS4-HMAC-SHA256 Credential=AKID/20300102/eu-west-1/" + service + "/aws4_request, SignedHeaders=host, Signature=0"},
	}
}

func TestRecorderRecordsAndRefuses(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, r.URL.Path+" "+string(body))
	}))
	defer backend.Close()
	granted := []Permission{p("dynamodb:GetItem", "RecordsTable")}
	r := NewRecorder(deployed, map[string][]Permission{"CreateRole": granted}, map[string]string{"dynamodb": backend.URL})
	defer r.Close()
	send := func(role, service, body string) (int, string) {
		request := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		request.Header = signed(service, "GetItem")
		answer := httptest.NewRecorder()
		r.As(role, "").ServeHTTP(answer, request)
		return answer.Code, answer.Body.String()
	}
	const ours = `{"TableName":"records-1"}`
	for range 2 {
		if status, body := send("CreateRole", "dynamodb", ours); status != http.StatusTeapot || body != "/ "+ours {
			t.Errorf("the backend returned %d %s", status, body)
		}
	}
	if made, times := r.Calls("CreateRole"); !slices.Equal(made, []Call{{"dynamodb:GetItem", "RecordsTable"}}) || times != 2 {
		t.Errorf("the recorded calls are %v, %d times", made, times)
	}
	if made, times := r.Calls("ReaperRole"); made != nil || times != 0 {
		t.Errorf("the recorded calls of another role are %v", made)
	}
	if wrong := r.Wrong(); wrong != nil {
		t.Errorf("the wrong calls are %q", wrong)
	}
	for service, body := range map[string]string{"dynamodb": `{"TableName":"other"}`, "ecs": `{"cluster":"cluster-1"}`, "lambda": `{}`} {
		if status, response := send("ReaperRole", service, body); status != http.StatusForbidden {
			t.Errorf("%s %s was not refused: %d %s", service, body, status, response)
		}
	}
	if wrong := r.Wrong(); len(wrong) != 3 {
		t.Errorf("the wrong calls are %q", wrong)
	}
	// A call that the role does not grant is recorded as needed, and refused.
	if status, response := send("DescribeRole", "dynamodb", ours); status != http.StatusForbidden || !strings.Contains(response, "not authorized to perform: [dynamodb:GetItem on RecordsTable]") {
		t.Errorf("the response to another role's call is %d %s", status, response)
	}
	if made, times := r.Calls("DescribeRole"); !slices.Equal(made, []Call{{"dynamodb:GetItem", "RecordsTable"}}) || times != 1 {
		t.Errorf("the recorded calls of another role are %v, %d times", made, times)
	}
}
