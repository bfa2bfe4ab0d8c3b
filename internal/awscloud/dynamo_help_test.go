package awscloud

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

type keysAndAttributes = types.KeysAndAttributes

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// numberIn is the digits of an attribute that must be a number.
func numberIn(t *testing.T, v types.AttributeValue) string {
	t.Helper()
	n, ok := v.(*types.AttributeValueMemberN)
	if !ok {
		t.Fatalf("%#v is no number", v)
	}
	return n.Value
}
