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
