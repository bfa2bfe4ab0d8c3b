//go:build conformance

package system

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/emulator"
	"github.com/bastion-on-demand/bastion/internal/test/privilege"
)

// taskRole is the role of tasks in template.yaml.
const taskRole = "TaskRole"

// roleOf returns the logical ID of a function's role in template.yaml. Aliases share it.
func roleOf(function string) string {
	function = withoutAlias(function)
	return strings.ToUpper(function[:1]) + function[1:] + "Role"
}

// newRecorder returns a recorder for the calls of functions and tasks. The services are
// URLs by service name.
func newRecorder(t testing.TB, resources stackResources, services map[string]string) *privilege.Recorder {
	t.Helper()
	template, err := emulator.Transformed()
	if err != nil {
		t.Fatal(err)
	}
	granted, err := privilege.Granted(template)
	if err != nil {
		t.Fatal(err)
	}
	r := privilege.NewRecorder(privilege.Deployment{
		StackID: stackID, Cluster: resources.cluster, VPC: resources.vpc,
		Tables:    map[string]string{recordTable: "RecordsTable", leaseTable: "LeasesTable", slackTable: "SlackTable"},
		Functions: functionsInTemplate(t, template),
		Parameters: map[string]string{
			secretName: "parameter${SlackSigningSecretParameter}", tokenName: "parameter${SlackBotTokenParameter}${Team}",
			"DestinationsParameter": "parameter${DestinationsParameter}", "TagsParameter": "parameter${TagsParameter}",
		},
	}, granted, services)
	t.Cleanup(r.Close)
	return r
}

// functionsInTemplate maps the functions and aliases of a template, by their names in this
// test, to their names in package privilege.
func functionsInTemplate(t testing.TB, template []byte) map[string]string {
	t.Helper()
	var all struct {
		Resources map[string]struct {
			Type       string
			Properties struct{ Name, FunctionName any }
		}
	}
	if err := json.Unmarshal(template, &all); err != nil {
		t.Fatal(err)
	}
	named := map[string]string{}
	name := func(resource string) string { return strings.ToLower(strings.TrimSuffix(resource, "Function")) }
	for resource, r := range all.Resources {
		switch r.Type {
		case "AWS::Lambda::Function":
			named[name(resource)] = resource
		case "AWS::Lambda::Alias":
			of := r.Properties.FunctionName.(map[string]any)["Ref"].(string)
			named[name(of)+":"+r.Properties.Name.(string)] = "${" + resource + "}"
		}
	}
	if !slices.Equal(slices.Sorted(maps.Keys(named)), slices.Sorted(maps.Keys(functionNames))) {
		t.Fatalf("the template has the functions and aliases %v", named)
	}
	return named
}

// serveTasks returns the endpoint URL of tasks. Each task calls a path that is its ID.
func serveTasks(t *testing.T, r *privilege.Recorder) string {
	t.Helper()
	return serve(t, http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		id := strings.Trim(request.URL.Path, "/")
		request.URL.Path = "/"
		r.As(taskRole, taskRoleID+":"+id).ServeHTTP(w, request)
	}))
}

// rolesGrantWhatIsUsed checks that each role grants exactly the permissions that the
// recorded calls and the platform need.
func (s *systemTest) rolesGrantWhatIsUsed(t *testing.T) {
	granted := s.recorder.Granted
	for _, wrong := range s.recorder.Wrong() {
		t.Error(wrong)
	}
	for name := range functionNames {
		if len(granted[roleOf(name)]) == 0 {
			t.Errorf("the template has no role %s", roleOf(name))
		}
	}
	for _, role := range slices.Sorted(maps.Keys(granted)) {
		calls, times := s.recorder.Calls(role)
		expanded, err := privilege.Expand(calls)
		if err != nil {
			t.Errorf("%s made an unknown call: %v", role, err)
			continue
		}
		needed := append(expanded, privilege.Platform(role)...)
		s.logf(t, "  %s: %d permissions, by %d calls of %d kinds, and the platform", role, len(granted[role]), times, len(calls))
		tooFew, tooMany := privilege.Compare(granted[role], needed)
		for _, p := range tooFew {
			t.Errorf("%s does not grant %s, which is needed", role, p)
		}
		for _, p := range tooMany {
			t.Errorf("%s grants %s, which no call has used; if the permission is needed, add a step that uses it", role, p)
		}
		if len(tooFew)+len(tooMany) == 0 {
			everyPermissionIsNeeded(t, role, granted[role], needed)
		}
	}
}

// everyPermissionIsNeeded checks the comparison itself: it must report each permission
// that is removed, and each that is added for another resource or condition.
func everyPermissionIsNeeded(t *testing.T, role string, granted, needed []privilege.Permission) {
	t.Helper()
	for i, p := range granted {
		narrow := slices.Delete(slices.Clone(granted), i, i+1)
		few, many := privilege.Compare(narrow, needed)
		if !slices.Equal(few, []privilege.Permission{p}) || len(many) > 0 {
			t.Errorf("%s without %s: %v too few, %v too many", role, p, few, many)
		}
		elsewhere, anyhow := p, p
		elsewhere.On += "-other"
		anyhow.If += " and more"
		few, many = privilege.Compare(append(slices.Clone(granted), elsewhere, anyhow), needed)
		if len(few) > 0 || len(many) != 2 {
			t.Errorf("%s with another %s: %v too few, %v too many", role, p, few, many)
		}
	}
}
