package localmode

import (
	"net/http"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"encoding/pem"
)

func TestBadRequestsAnswerProblemsAndLeaveNothing(t *testing.T) {
	r, w := start(t, nil), newWallet(t)
	key := strings.TrimSpace(w.add("ed25519"))
	private, secret := privateKeyFile(t)
	post := func(body string) call { return call{method: "POST", path: "/bastions", body: body} }
	field := func(name, value string) call {
		return post(`{"public_key":"` + key + `","` + name + `":"` + value + `"}`)
	}
	for name, c := range map[string]call{
		"no key ever given":      post(""),
		"two keys":               post(key + "\n" + key + "\n"),
		"junk before the key":    post("junk " + key),
		"key options":            post(`command="sh" ` + key),
		"a private key":          post(private),
		"a private key as field": post(`{"public_key":"` + strings.ReplaceAll(private, "\n", `\n`) + `"}`),
		"a certificate":          post("ssh-ed25519-cert-v01@openssh.com AAAA"),
		"a 1 MB body":            post(strings.Repeat("a", 1<<20)),
		"bad JSON":               post(`{"public_key":`),
		"an unknown field":       field("colour", "red"),
		"ttl of 0":               field("ttl", "0"),
		"ttl of -1m":             field("ttl", "-1m"),
		"ttl of 1000h":           field("ttl", "1000h"),
		"ttl of abc":             field("ttl", "abc"),
		"a name with a newline":  field("name", `a\nb`),
		"source 0.0.0.0/0":       field("source", "0.0.0.0/0"),
		"a wrong method":         {method: "PUT", path: "/bastions", body: key},
		"a wrong path":           {method: "POST", path: "/bastion", body: key},
		"a wrong Accept":         {method: "POST", path: "/bastions", body: key, header: map[string]string{"Accept": "image/png"}},
		"an owner like a record": {method: "POST", path: "/bastions", body: key, owner: "iam:1"},
	} {
		if s := r.do(c); s.status < 400 || s.status >= 500 || s.Code == "" || s.Detail == "" {
			t.Errorf("%s: %d: %s", name, s.status, s.text)
		}
	}
	if all := r.Cloud.Inventory(); len(all.Records)+len(all.Groups)+len(all.Tasks)+len(all.Leases) != 0 {
		t.Errorf("left behind: %+v", all)
	}
	if strings.Contains(r.log.String(), secret) {
		t.Error("the private key is in the log")
	}
}

// privateKeyFile makes one, and names a line that is in no other text.
func privateKeyFile(t *testing.T) (file, line string) {
	t.Helper()
	private, err := makeKey("ed25519")
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	file = string(pem.EncodeToMemory(block))
	return file, strings.Split(file, "\n")[3]
}

func TestTheAPIAnswersOnlyLocalTools(t *testing.T) {
	r := start(t, nil)
	for name, edit := range map[string]func(*http.Request){
		"a foreign Host":      func(req *http.Request) { req.Host = "evil.example" },
		"a cross-origin POST": func(req *http.Request) { req.Header.Set("Origin", "https://evil.example") },
		"a cross-site POST":   func(req *http.Request) { req.Header.Set("Sec-Fetch-Site", "cross-site") },
	} {
		req, err := http.NewRequest("POST", r.URL+"/bastions", strings.NewReader("ssh-ed25519 AAAA"))
		if err != nil {
			t.Fatal(err)
		}
		edit(req)
		answer, err := r.client("").Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode < 400 || answer.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d, %s", name, answer.StatusCode, answer.Header.Get("Content-Type"))
		}
	}
	if all := r.Cloud.Inventory(); len(all.Records) != 0 {
		t.Errorf("left behind: %+v", all.Records)
	}
}

func TestStartRefusesWhatItCannotListenOn(t *testing.T) {
	o := Defaults()
	o.Listen = "0.0.0.0:1"
	if _, err := Start(o); err == nil || !strings.Contains(err.Error(), "loopback only") {
		t.Errorf("--listen 0.0.0.0:1: %v", err)
	}
	r := start(t, nil)
	o.Listen = strings.TrimPrefix(r.URL, "http://")
	if _, err := Start(o); err == nil || !strings.Contains(err.Error(), "is in use") || !strings.Contains(err.Error(), "--listen 127.0.0.1:0") {
		t.Errorf("a port in use: %v", err)
	}
}
