package awscloud

import (
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/test/privilege"
)

// An adapter calls what its interfaces name. So no call in any of their tests, nor
// anywhere else, is without a row in the table of permissions; and no row is of a
// call that nobody could make.
func TestEveryCallOfTheAdaptersHasItsPermissions(t *testing.T) {
	could := map[string]bool{}
	for service, interfaces := range map[string][]reflect.Type{
		"dynamodb": {reflect.TypeFor[RecordsAPI](), reflect.TypeFor[LeasesAPI](), reflect.TypeFor[TaskLeaseAPI](), reflect.TypeFor[ItemsAPI]()},
		"ec2":      {reflect.TypeFor[EC2Groups](), reflect.TypeFor[EC2Interfaces]()},
		"ecs":      {reflect.TypeFor[ECSTasks]()},
		"lambda":   {reflect.TypeFor[LambdaAPI]()},
		"ssm":      {reflect.TypeFor[SecretsAPI]()},
	} {
		for _, api := range interfaces {
			for method := range api.Methods() {
				could[service+":"+method.Name] = true
			}
		}
	}
	if rows := privilege.Operations(); !maps.Equal(could, rows) {
		t.Errorf("the adapters could call\n%q,\nand the table has\n%q", slices.Sorted(maps.Keys(could)), slices.Sorted(maps.Keys(rows)))
	}
}
