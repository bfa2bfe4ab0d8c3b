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

// If the response to a write is lost, the SDK sends the write again. The retry must not
// return ErrConflict, even if other callers have written since.
func TestItemWriteIsRetriedAfterLostResponse(t *testing.T) {
	r := startDynamoDB(t)
	for name, c := range map[string]struct{ prev, others int64 }{ // others: writes of other callers
		"first version":                    {0, 0},
		"first version, then seven others": {0, 7},
		"version 4":                        {3, 0},
		"version 4, then another":          {3, 1},
		"version 4, then seven others":     {3, 7},
		"version 10, then seven others":    {9, 7}, // more versions than nonces kept
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
				t.Fatalf("%d responses were lost, want 1", n)
			}
			want := "mine"
			if c.others > 0 {
				want = "others"
			}
			got, version, err := i.Fetch(t.Context(), "a")
			if must(t, err); string(got) != want || version != c.prev+1+c.others {
				t.Errorf("the value is %q, version %d", got, version)
			}
		})
	}
	t.Run("another caller's write is a conflict", func(t *testing.T) {
		client, losing := r.losingClient(t)
		i := r.items(t, client, time.Now)
		must(t, i.Write(t.Context(), "a", 0, []byte("same"), time.Time{}))
		losing.operation.Store("UpdateItem")
		if err := i.Write(t.Context(), "a", 0, []byte("same"), time.Time{}); !errors.Is(err, bastion.ErrConflict) {
			t.Errorf("%v, want %v", err, bastion.ErrConflict)
		}
		if losing.lost.Load() != 1 {
			t.Error("no response was lost")
		}
	})
}

// DynamoDB deletes expired items by the table's TTL attribute, in seconds. A value
// that does not expire must not have the attribute.
func TestItemsHaveTTL(t *testing.T) {
	r := startDynamoDB(t)
	i := r.items(t, r.client(t, nil), time.Now)
	must(t, i.Write(t.Context(), "a", 0, nil, epoch))
	r.checkExpiry(t, i.table, i.key("a"), epoch.Truncate(time.Second).Add(time.Second))
	must(t, i.Write(t.Context(), "b", 0, nil, time.Time{}))
	r.checkExpiry(t, i.table, i.key("b"), time.Time{})
	must(t, i.Write(t.Context(), "b", 1, nil, epoch.Truncate(time.Second)))
	r.checkExpiry(t, i.table, i.key("b"), epoch.Truncate(time.Second))
	must(t, i.Write(t.Context(), "b", 2, nil, time.Time{}))
	r.checkExpiry(t, i.table, i.key("b"), time.Time{})
}

func TestInvalidItemIsAnError(t *testing.T) {
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
			t.Errorf("%v is read as %q, %v", broken, got, err)
		}
	}
}
