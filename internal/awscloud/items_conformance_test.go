//go:build conformance

package awscloud

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// A write whose answer was lost is sent again by the SDK, and then meets itself:
// that is no conflict, even if others have written since.
func TestALostAnswerOfTheItems(t *testing.T) {
	r := startDynamoDB(t)
	for name, c := range map[string]struct{ prev, others int64 }{
		"the first":                       {0, 0},
		"the first, and seven others":     {0, 7},
		"a later one":                     {3, 0},
		"a later one, and another":        {3, 1},
		"a later one, and seven others":   {3, 7},
		"one that goes round, and others": {9, 7},
	} {
		t.Run(name, func(t *testing.T) {
			client, losing := r.losingClient(t)
			i := r.items(t, client, time.Now)
			write := func(version int64, value string) {
				must(t, i.Write(t.Context(), "a", version, []byte(value), time.Now().Add(time.Hour)))
			}
			for version := range c.prev {
				write(version, "before")
			}
			losing.meanwhile = func() {
				for n := range c.others {
					write(c.prev+1+n, "others")
				}
			}
			losing.operation.Store("UpdateItem")
			write(c.prev, "mine")
			if n := losing.lost.Load(); n != 1 {
				t.Fatalf("%d answers were lost, not one", n)
			}
			want := "mine"
			if c.others > 0 {
				want = "others"
			}
			got, version, err := i.Fetch(t.Context(), "a")
			if must(t, err); string(got) != want || version != c.prev+1+c.others {
				t.Errorf("it is %q of version %d", got, version)
			}
		})
	}
	t.Run("another's is a conflict", func(t *testing.T) {
		client, losing := r.losingClient(t)
		i := r.items(t, client, time.Now)
		must(t, i.Write(t.Context(), "a", 0, []byte("same"), time.Time{}))
		losing.operation.Store("UpdateItem")
		if err := i.Write(t.Context(), "a", 0, []byte("same"), time.Time{}); !errors.Is(err, bastion.ErrConflict) {
			t.Errorf("%v, not %v", err, bastion.ErrConflict)
		}
		if losing.lost.Load() != 1 {
			t.Error("no answer was lost")
		}
	})
}

// DynamoDB takes away what has expired by the attribute that the table names, in
// seconds; what never expires, or does no more, does not have it.
func TestItemsExpireForDynamoDBToo(t *testing.T) {
	r := startDynamoDB(t)
	i := r.items(t, r.client(t, nil), time.Now)
	must(t, i.Write(t.Context(), "a", 0, nil, epoch))
	r.expires(t, i.table, i.key("a"), epoch.Truncate(time.Second).Add(time.Second))
	must(t, i.Write(t.Context(), "b", 0, nil, time.Time{}))
	r.expires(t, i.table, i.key("b"), time.Time{})
	must(t, i.Write(t.Context(), "b", 1, nil, epoch.Truncate(time.Second)))
	r.expires(t, i.table, i.key("b"), epoch.Truncate(time.Second))
	must(t, i.Write(t.Context(), "b", 2, nil, time.Time{}))
	r.expires(t, i.table, i.key("b"), time.Time{})
}

// What is not as Write makes it is an error, and not an empty value.
func TestAnItemThatIsNone(t *testing.T) {
	r := startDynamoDB(t)
	client := r.client(t, nil)
	i := r.items(t, client, time.Now)
	for n, broken := range []item{
		{attVersion: number(1)},
		{attVersion: number(1), attValue: text("text")},
		{attVersion: text("1"), attValue: &types.AttributeValueMemberB{Value: []byte("x")}},
		{attVersion: number(1), attValue: &types.AttributeValueMemberB{Value: []byte("x")}, attExpiresAt: text("soon")},
	} {
		key := fmt.Sprint("broken", n)
		broken[keyItem] = text(key)
		_, err := client.PutItem(t.Context(), &dynamodb.PutItemInput{TableName: &i.table, Item: broken})
		must(t, err)
		if got, _, err := i.Fetch(t.Context(), key); err == nil || errors.Is(err, bastion.ErrNotFound) {
			t.Errorf("%v reads as %q, %v", broken, got, err)
		}
	}
}
