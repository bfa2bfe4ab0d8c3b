package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// What the service answers becomes a problem; only its own sentences are shown.
func TestServiceErrors(t *testing.T) {
	cause := errors.New("dynamodb: ValidationException at 10.1.2.3")
	for name, test := range map[string]struct {
		err    error
		status int
		code   string
		level  string
		logged bool // the cause is in the log
	}{
		"for people":            {bastion.Errorf(bastion.CodeNotOpen, "It is closing."), 409, "not_open", "INFO", false},
		"for people, wrapped":   {fmt.Errorf("extend: %w", bastion.Errorf(bastion.CodeNotOpen, "It is closing.")), 409, "not_open", "INFO", false},
		"with a cause":          {&bastion.Error{Code: bastion.CodeBusy, Message: "Try again.", Cause: cause}, 503, "busy", "WARN", true},
		"internal":              {fmt.Errorf("fetch: %w", cause), 500, "internal", "ERROR", true},
		"a code of nobody":      {&bastion.Error{Code: "odd", Message: "An odd thing.", Cause: cause}, 500, "internal", "ERROR", true},
		"too late":              {fmt.Errorf("fetch: %w: %w", context.DeadlineExceeded, cause), 503, "unavailable", "WARN", true},
		"cancelled":             {fmt.Errorf("fetch: %w: %w", context.Canceled, cause), 503, "unavailable", "WARN", true},
		"for people, cancelled": {&bastion.Error{Code: bastion.CodeNotFound, Message: "None.", Cause: context.Canceled}, 404, "not_found", "INFO", false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig()
			r.err = test.err
			w := r.send("PATCH", "/bastions/"+someID, `{"ttl":"1h"}`)
			p := readProblem(t, w)
			if w.Code != test.status || p.Code != test.code {
				t.Errorf("%d %s: %s", w.Code, p.Code, p.Detail)
			}
			if strings.Contains(p.Detail, "10.1.2.3") || strings.Contains(p.Detail, "odd") {
				t.Errorf("it shows the inside: %s", p.Detail)
			}
			if got := w.Header().Get("Retry-After") != ""; got != (test.status == 503) {
				t.Errorf("Retry-After: %t", got)
			}
			line := onlyLogLine(t, r)
			if line["level"] != test.level || strings.Contains(r.log.String(), "10.1.2.3") != test.logged {
				t.Errorf("the log says %s", r.log)
			}
		})
	}
}

func TestAPanicIsAnInternalError(t *testing.T) {
	r := newRig()
	r.crash = true
	w := r.send("GET", "/bastions", "")
	if p := readProblem(t, w); w.Code != 500 || p.Code != "internal" || !strings.Contains(p.Detail, "request-1") {
		t.Errorf("%d %s: %s", w.Code, p.Code, p.Detail)
	}
	if cause, _ := onlyLogLine(t, r)["cause"].(string); !strings.Contains(cause, "a bug") || !strings.Contains(cause, "fake_test.go") {
		t.Errorf("the log does not say where: %s", r.log)
	}
}

func TestRequestLog(t *testing.T) {
	r := newRig()
	r.rec = ready()
	r.send("GET", "/bastions/"+someID+"?token=secret", "", "Authorization", "Basic secret", "Cookie", "secret")
	line := onlyLogLine(t, r)
	for key, want := range map[string]any{
		"level": "INFO", "msg": "request", "request_id": "request-1", "method": "GET", "route": "/bastions/{id}",
		"status": 200.0, "owner": "local:alice", "source": "203.0.113.7", "duration": 0.0,
	} {
		if line[key] != want {
			t.Errorf("%s is %v, not %v", key, line[key], want)
		}
	}
	if strings.Contains(r.log.String(), "secret") || strings.Contains(r.log.String(), someID) {
		t.Errorf("the log says too much: %s", r.log)
	}
}

// A private key that was sent by mistake must not be kept anywhere, in whatever
// way the request goes wrong.
func TestNoPrivateKeyInTheLog(t *testing.T) {
	key := privateKey(t)
	secret := strings.Split(key, "\n")[2][:40] // a line from the middle
	for name, body := range map[string]string{
		"as it is":     key,
		"in JSON":      toJSON(key),
		"as a name":    `{` + strings.TrimPrefix(toJSON(key), `{"public_key":`) + `: 1}`,
		"bad JSON":     `{"public_key": "` + key,
		"as a source":  strings.Replace(toJSON(key), "public_key", "source", 1),
		"behind a key": string(userKey) + "\n" + key,
	} {
		r := newRig()
		w := r.send("POST", "/bastions", body)
		answer := w.Body.String()
		if p := readProblem(t, w); p.Code != "private_key" {
			t.Errorf("%s: %s", name, p.Code)
		}
		if strings.Contains(r.log.String(), secret) || strings.Contains(answer, secret) || len(r.calls) > 0 {
			t.Errorf("%s: log %s\nanswer %s\ncalls %v", name, r.log, answer, r.calls)
		}
		onlyLogLine(t, r)
	}
}

func onlyLogLine(t *testing.T, r *rig) map[string]any {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(r.log.String()), "\n")
	var line map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &line); err != nil || len(lines) != 1 {
		t.Fatalf("not one line: %q: %v", lines, err)
	}
	return line
}
