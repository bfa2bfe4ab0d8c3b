package httpapi_test

import (
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

func TestPreferWait(t *testing.T) {
	for name, test := range map[string]struct {
		headers []string
		wait    time.Duration
		applied string
	}{
		"none":                   {nil, 0, ""},
		"wait":                   {[]string{"wait=7"}, 7 * time.Second, "wait=7"},
		"nothing to wait":        {[]string{"wait=0"}, 0, "wait=0"},
		"capped":                 {[]string{"wait=26"}, 25 * time.Second, "wait=25"},
		"out of range":           {[]string{"wait=99999999999999999999"}, 25 * time.Second, "wait=25"},
		"in capitals":            {[]string{"WAIT=7"}, 7 * time.Second, "wait=7"},
		"quoted":                 {[]string{`wait="7"`}, 7 * time.Second, "wait=7"},
		"quoted with an escape":  {[]string{`wait="\7"`}, 7 * time.Second, "wait=7"},
		"spaces":                 {[]string{" wait = 7 "}, 7 * time.Second, "wait=7"},
		"among others":           {[]string{`respond-async, wait=7;x=1, foo="a, wait=9"; wait=3`}, 7 * time.Second, "wait=7"},
		"only inside quotes":     {[]string{`foo="a, wait=9"`}, 0, ""},
		"only as a parameter":    {[]string{`foo; wait=9`}, 0, ""},
		"escaped quote":          {[]string{`foo="\", wait=9", wait=7`}, 7 * time.Second, "wait=7"},
		"two headers":            {[]string{"return=minimal", "wait=7"}, 7 * time.Second, "wait=7"},
		"twice: the first":       {[]string{"wait=7, wait=9"}, 7 * time.Second, "wait=7"},
		"no number":              {[]string{"wait=soon"}, 0, ""},
		"negative":               {[]string{"wait=-1"}, 0, ""},
		"fraction":               {[]string{"wait=1.5"}, 0, ""},
		"no value":               {[]string{"wait"}, 0, ""},
		"empty value":            {[]string{`wait=""`}, 0, ""},
		"unclosed quote":         {[]string{`wait="7`}, 0, ""},
		"backslash at the end":   {[]string{`wait="7\`}, 0, ""},
		"another that begins so": {[]string{"waiting=7"}, 0, ""},
		"malformed list":         {[]string{",;,=,wait=7"}, 7 * time.Second, "wait=7"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newFixture()
			r.rec = ready()
			var headers []string
			for _, value := range test.headers {
				headers = append(headers, "Prefer", value)
			}
			for _, method := range []string{"POST", "GET", "DELETE"} {
				w := r.send(method, "/bastions", "", headers...)
				if got := w.Header().Get("Preference-Applied"); r.wait != test.wait || got != test.applied {
					t.Errorf("%s: wait %s, Preference-Applied %q", method, r.wait, got)
				}
			}
		})
	}
}

func TestMaxWait(t *testing.T) {
	r := newFixture()
	r.options.MaxWait = 90*time.Second + 500*time.Millisecond
	w := r.send("GET", "/bastions", "", "Prefer", "wait=600")
	if got := w.Header().Get("Preference-Applied"); got != "wait=90" || r.wait != 90*time.Second {
		t.Errorf("wait %s, Preference-Applied %q", r.wait, got)
	}
}

func TestAccept(t *testing.T) {
	const (
		json = "application/json"
		text = "text/plain; charset=utf-8"
	)
	for accept, want := range map[string]string{
		"":                                   json,
		"*/*":                                json,
		"application/json":                   json,
		"text/plain":                         text,
		"Text/Plain":                         text,
		"text/*":                             text,
		"application/*":                      json,
		"text/plain; charset=utf-8":          text,
		"text/plain, application/json":       json,
		"text/plain, application/json;q=0.9": text,
		"text/plain;q=0.5, application/json; Q=1":     json,
		"text/plain, */*":                             text,
		"text/plain;q=0.1, */*":                       json,
		"application/json;q=0, */*":                   text,
		"text/html, application/xml;q=0.9, */*;q=0.8": json,
		`text/html;note="text/plain, a", text/plain`:  text,
		"text/*;q=0.9, text/plain;q=0":                "",
		"text/html":                                   "",
		"application/problem+json":                    "",
		"image/png, */*;q=0":                          "",
		"text/plain;q=2":                              "",
		"text/plain;q=x":                              "",
		"text/plain;q=NaN":                            "",
		"nonsense":                                    "",
	} {
		t.Run(accept, func(t *testing.T) {
			r := newFixture()
			r.rec, r.created = starting(), true
			w := r.send("POST", "/bastions", "", "Accept", accept)
			if want != "" {
				if got := w.Header().Get("Content-Type"); w.Code != 201 || got != want {
					t.Errorf("%d, Content-Type %q", w.Code, got)
				}
				return
			}
			if p := readProblem(t, w); w.Code != 406 || p.Code != "not_acceptable" || len(r.calls) > 0 {
				t.Errorf("%d %s after %v", w.Code, p.Code, r.calls)
			}
		})
	}
}

func TestErrorIsAProblemWhateverAcceptSays(t *testing.T) {
	r := newFixture()
	r.err = bastion.Errorf(bastion.CodeNotFound, "There is no such bastion.")
	w := r.send("GET", "/bastions/"+someID, "", "Accept", "text/plain", "Prefer", "wait=5")
	if p := readProblem(t, w); w.Code != 404 || p.Code != "not_found" {
		t.Errorf("%d %s", w.Code, p.Code)
	}
	if got := w.Header().Get("Preference-Applied"); got != "" {
		t.Errorf("Preference-Applied %q", got)
	}
}
