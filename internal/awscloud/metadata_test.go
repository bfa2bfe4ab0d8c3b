package awscloud

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

const metadata = `{
  "Cluster": "arn:aws:ecs:eu-west-1:111122223333:cluster/bastions",
  "TaskARN": "arn:aws:ecs:eu-west-1:111122223333:task/bastions/158d1c8083dd49d6b527399fd6414f5c",
  "Family": "bastion", "Revision": "7",
  "Containers": [{"Name": "bastiond", "Networks": [
    {"NetworkMode": "awsvpc", "IPv4Addresses": ["10.0.2.106"], "IPv6Addresses": ["2001:db8::6a"], "AttachmentIndex": 0}]}]
}`

func TestTaskMetadataIsReadAgainAfterError(t *testing.T) {
	attempts := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		attempts++
		if r.URL.Path != "/v4/abc/task" || attempts == 1 {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, metadata)
	}))
	defer server.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	found, err := ReadTaskMetadata(ctx, server.URL+"/v4/abc")
	want := []netip.Addr{netip.MustParseAddr("10.0.2.106"), netip.MustParseAddr("2001:db8::6a")}
	if err != nil || found.TaskID != "158d1c8083dd49d6b527399fd6414f5c" || !slices.Equal(found.Addresses, want) {
		t.Errorf("%+v, %v", found, err)
	}
	http.DefaultClient.CloseIdleConnections()
}

func TestInvalidTaskMetadataIsAnError(t *testing.T) {
	for _, body := range []string{"", "{}", `{"TaskARN": "arn:aws:ecs:eu-west-1:111122223333:service/bastions/x"}`, `{"TaskARN": "arn:aws:ecs:eu-west-1:111122223333:task/"}`} {
		if found, err := parseTaskMetadata(strings.NewReader(body)); err == nil {
			t.Errorf("%q: %+v", body, found)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := ReadTaskMetadata(ctx, "http://127.0.0.1:1"); err == nil {
		t.Error("no error after the context has ended")
	}
}
