package awscloud

import (
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/privilege"
)

// The adapters' interfaces contain every call that the adapters make. The table of
// permissions (privilege.Operations) must have exactly these calls.
func TestEveryCallHasPermissions(t *testing.T) {
	calls := map[string]bool{}
	for service, interfaces := range map[string][]reflect.Type{
		"dynamodb": {reflect.TypeFor[RecordsAPI](), reflect.TypeFor[LeasesAPI](), reflect.TypeFor[TaskLeaseAPI](), reflect.TypeFor[ItemsAPI]()},
		"ec2":      {reflect.TypeFor[EC2Groups](), reflect.TypeFor[EC2Interfaces]()},
		"ecs":      {reflect.TypeFor[ECSTasks]()},
		"lambda":   {reflect.TypeFor[LambdaAPI]()},
		"ssm":      {reflect.TypeFor[SecretsAPI]()},
	} {
		for _, api := range interfaces {
			for method := range api.Methods() {
				calls[service+":"+method.Name] = true
			}
		}
	}
	if rows := privilege.Operations(); !maps.Equal(calls, rows) {
		t.Errorf("the adapters' interfaces have\n%q,\nthe table has\n%q", slices.Sorted(maps.Keys(calls)), slices.Sorted(maps.Keys(rows)))
	}
}
