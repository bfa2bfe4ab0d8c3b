package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
)

const itemPath = "/bastions/" + someID

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// exchanges are those of TestContract.
func exchanges(t *testing.T) []exchange {
	all := slices.Concat(successes(), everywhere(), malformed(t), fromTheService())
	for i := range all {
		if all[i].body == nil {
			all[i].body = defaultBody(all[i].method)
		}
		if all[i].body != http.NoBody && len(all[i].header) == 0 {
			all[i].header = []string{"Content-Type", "application/json"}
		}
	}
	return all
}

func defaultBody(method string) io.Reader {
	switch method {
	case "POST":
		return strings.NewReader(`{"ttl":"1h"}`)
	case "PATCH":
		return strings.NewReader(`{"ttl":"30m"}`)
	}
	return http.NoBody
}

// successes is every operation that works, in both formats, in every state.
func successes() []exchange {
	var all []exchange
	for contentType, accept := range map[string]string{"application/json": "*/*", "text/plain": "text/plain"} {
		header := []string{"Accept", accept, "Prefer", "wait=5", "Content-Type", "application/json"}
		add := func(method, path string, record bastion.Record, status string) {
			all = append(all, exchange{method: method, path: path, record: record, created: status == "201", header: header, want: status + " " + contentType})
		}
		for _, record := range []bastion.Record{starting(), ready(), closing(), closed(), failed()} {
			add("GET", "/bastions", record, "200")
			add("GET", itemPath, record, "200")
		}
		add("POST", "/bastions", starting(), "201")
		add("POST", "/bastions", ready(), "200")
		add("PATCH", itemPath, ready(), "200")
		for status, record := range map[string]bastion.Record{"202": closing(), "200": closed()} {
			add("DELETE", "/bastions", record, status)
			add("DELETE", itemPath, record, status)
		}
		key := exchange{method: "POST", path: "/bastions", record: starting(), created: true, want: "201 " + contentType}
		key.body, key.header = strings.NewReader(string(userKey)+" alice\n"), []string{"Accept", accept, "Content-Type", "text/plain"}
		all = append(all, key)
	}
	return all
}

// everywhere is what can go wrong with every operation.
func everywhere() []exchange {
	var all []exchange
	for path, methods := range map[string][]string{"/bastions": {"GET", "POST", "DELETE"}, itemPath: {"GET", "PATCH", "DELETE"}} {
		for _, method := range methods {
			identify := func(code bastion.Code) httpapi.Identify {
				return func(*http.Request) (bastion.Caller, error) {
					return bastion.Caller{}, bastion.Errorf(code, "You may not.")
				}
			}
			all = append(all,
				exchange{method: method, path: path, identify: identify(httpapi.CodeUnauthenticated), want: "401 unauthenticated"},
				exchange{method: method, path: path, identify: identify(httpapi.CodeForbidden), want: "403 forbidden"},
				exchange{method: method, path: path, identify: identify(httpapi.CodeOwnerInvalid), want: "401 owner_invalid"},
				exchange{method: method, path: path, identify: identify(httpapi.CodeCrossOrigin), want: "403 cross_origin"},
				exchange{method: method, path: path, identify: identify(httpapi.CodeHostForeign), want: "421 host_foreign"},
				exchange{method: method, path: path, header: []string{"Authorization", "a", "Authorization", "b", "Content-Type", "application/json"}, want: "400 authorization_invalid"},
				exchange{method: method, path: path, header: []string{"Accept", "text/html", "Content-Type", "application/json"}, want: "406 not_acceptable"},
				exchange{method: method, path: path, err: errors.New("broken"), want: "500 internal"},
				exchange{method: method, path: path, err: context.DeadlineExceeded, want: "503 unavailable"},
			)
			if path == itemPath {
				all = append(all, exchange{method: method, path: path, err: bastion.Errorf(bastion.CodeNotFound, "There is none."), want: "404 not_found"})
			}
		}
	}
	return all
}

// malformed is what the handlers refuse by themselves.
func malformed(t *testing.T) []exchange {
	key := string(userKey)
	var all []exchange
	for want, body := range map[string]string{
		"400 key_invalid":     "junk " + key,
		"400 key_two":         key + "\n" + string(hostKey),
		"400 key_options":     "restrict " + key,
		"400 key_certificate": certificate(t),
		"400 key_too_weak":    rsa1024(t),
		"400 key_type":        "ssh-dss AAAA",
		"400 private_key":     privateKey(t),
		"400 ttl_invalid":     `{"ttl":"abc"}`,
		"400 source_invalid":  `{"source":"0.0.0.0/0"}`,
		"400 json_invalid":    `{`,
		"400 unknown_field":   `{"owner":"local:bob"}`,
		"400 field_invalid":   `{"ttl":1}`,
		"400 name_invalid":    `{"name":""}`,
		"413 body_too_large":  strings.Repeat("x", 1<<20),
	} {
		all = append(all, exchange{method: "POST", path: "/bastions", body: strings.NewReader(body), want: want, malformed: true})
	}
	for want, body := range map[string]string{
		"400 private_key":    privateKey(t),
		"400 ttl_invalid":    `{"ttl":"0s"}`,
		"400 json_invalid":   key,
		"400 unknown_field":  `{"name":"db"}`,
		"400 field_invalid":  `{"ttl":"1h","ttl":"1h"}`,
		"413 body_too_large": strings.Repeat(" ", 1<<20),
		"422 ttl_required":   `{}`,
	} {
		all = append(all, exchange{method: "PATCH", path: itemPath, body: strings.NewReader(body), want: want, malformed: true})
	}
	return append(all,
		exchange{method: "POST", path: "/bastions", body: brokenReader{}, want: "400 body_incomplete", malformed: true},
		exchange{method: "PATCH", path: itemPath, body: brokenReader{}, want: "400 body_incomplete", malformed: true})
}

// fromTheService is what the service refuses.
func fromTheService() []exchange {
	var all []exchange
	add := func(method, path string, codes ...bastion.Code) {
		for _, code := range codes {
			all = append(all, exchange{method: method, path: path, err: bastion.Errorf(code, "No, and this is why."), want: strconv.Itoa(httpapi.Statuses[code]) + " " + string(code)})
		}
	}
	add("POST", "/bastions",
		bastion.CodeReasonInvalid, bastion.CodeNameInvalid, bastion.CodeSourceInvalid,
		bastion.CodeSourceNotAllowed, bastion.CodeQuotaOwner, bastion.CodeQuotaTotal, bastion.CodeKeyRequired,
		bastion.CodeTTLBeyondCap, bastion.CodeSourceFamily, bastion.CodeSourceRequired, bastion.CodeBusy, httpapi.CodeDraining)
	add("PATCH", itemPath, bastion.CodeTTLBeyondCap, bastion.CodeNotOpen, bastion.CodeBusy)
	add("DELETE", itemPath, bastion.CodeBusy)
	add("DELETE", "/bastions", bastion.CodeBusy)
	return all
}
