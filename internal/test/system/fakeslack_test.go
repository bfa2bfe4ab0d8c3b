//go:build conformance

package system

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Slack's credentials, and their names in Parameter Store.
const (
	signingSecret = "8f742231b10e8888abcd99yyyzzz85a5"
	botToken      = "xoxb-17653672481-19874698323"
	secretName    = "/way-in/slack/signing-secret"
	tokenName     = "/way-in/slack/bot-token"
)

// IDs of a workspace and a channel.
const (
	team    = "T0123ABCD"
	channel = "C0123ABCD"
)

// Slack's limits of a response_url; see
// https://docs.slack.dev/interactivity/handling-user-interaction/#message_responses.
const (
	maxUses = 5
	urlLife = 30 * time.Minute
)

// fakeSlack plays Slack. It sends signed commands and button presses, and receives
// messages at https://hooks.slack.com and https://slack.com. The function reaches these
// hosts through the proxy and with the certificate that its environment names.
type fakeSlack struct {
	app             string // the URL that requests go to
	proxy           string // the URL of the proxy
	certificateFile string // in PEM
	certificate     tls.Certificate
	client          *http.Client // for app
	hostsAddress    string       // of the server that plays both hosts
	tunnels         sync.WaitGroup

	mu           sync.Mutex
	serial       int
	responseURLs map[string]time.Time // to the time of their creation
	uses         map[string]int       // of each response_url; of direct messages under ""
	messages     []message
	rejected     []string             // messages and reasons
	posted       map[string]time.Time // the last chat.postMessage of a channel
	rateLimited  map[string]int       // 429 responses by method
}

// message is a message in Slack.
type message struct {
	responseURL     string // empty for a direct message
	Channel, TS     string // of a direct message
	user            string // the recipient of a direct message
	ReplaceOriginal bool   `json:"replace_original"`
	ResponseType    string `json:"response_type"`
	text            string // all text elements, one per line
	buttons         []messageButton
}

type messageButton struct {
	ID    string `json:"action_id"`
	Value string `json:"value"`
	URL   string `json:"url"`
}

func newSlack(t testing.TB) *fakeSlack {
	t.Helper()
	s := &fakeSlack{responseURLs: map[string]time.Time{}, uses: map[string]int{}, posted: map[string]time.Time{}, rateLimited: map[string]int{}}
	s.certificate, s.certificateFile = newCertificate(t, "hooks.slack.com", "slack.com")
	pool := x509.NewCertPool()
	pool.AddCert(s.certificate.Leaf)
	s.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool}}}
	s.hostsAddress = strings.TrimPrefix(s.serveTLS(t, http.HandlerFunc(s.receive)), "https://")
	s.proxy = serve(t, http.HandlerFunc(s.tunnel))
	return s
}

// receive serves response_urls, chat.postMessage and chat.update.
func (s *fakeSlack) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var m message
	var content any
	if err != nil || json.Unmarshal(body, &m) != nil || json.Unmarshal(body, &content) != nil || r.Method != http.MethodPost {
		s.reject(w, http.StatusBadRequest, r.URL.Path, "invalid_payload")
		return
	}
	m.readBlocks(content)
	direct := r.Host == "slack.com" && (r.URL.Path == "/api/chat.postMessage" || r.URL.Path == "/api/chat.update")
	if !direct {
		m.responseURL = "https://" + r.Host + r.URL.Path
	}
	s.mu.Lock()
	since, known := s.responseURLs[m.responseURL]
	s.uses[m.responseURL]++
	used := s.uses[m.responseURL]
	s.mu.Unlock()
	switch {
	case direct && r.Header.Get("Authorization") != "Bearer "+botToken:
		s.reject(w, http.StatusOK, r.URL.Path, "invalid_auth") // the API's errors have status 200
		return
	case !direct && (!known || r.Header.Get("Authorization") != ""):
		s.reject(w, http.StatusNotFound, m.responseURL, "no_such_url")
		return
	case !direct && time.Since(since) > urlLife:
		s.reject(w, http.StatusNotFound, m.responseURL, "expired_url")
		return
	case !direct && used > maxUses:
		s.reject(w, http.StatusNotFound, m.responseURL, "used_url")
		return
	}
	if direct {
		s.receiveDirect(w, r.URL.Path == "/api/chat.update", m)
		return
	}
	s.mu.Lock()
	s.messages = append(s.messages, m)
	s.mu.Unlock()
	_, _ = io.WriteString(w, `{"ok":true}`)
}

// receiveDirect posts a direct message or replaces the one that has the same channel and
// ts. It rate limits the first call of each method and a second new message to a channel
// within a second; see https://docs.slack.dev/apis/web-api/rate-limits/.
func (s *fakeSlack) receiveDirect(w http.ResponseWriter, update bool, m message) {
	method := "chat.postMessage"
	if update {
		method = "chat.update"
	}
	s.mu.Lock()
	if s.rateLimited[method] == 0 || !update && time.Since(s.posted[m.Channel]) < time.Second {
		s.rateLimited[method]++
		s.mu.Unlock()
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = io.WriteString(w, `{"ok":false,"error":"ratelimited"}`)
		return
	}
	if update {
		at := slices.IndexFunc(s.messages, func(old message) bool { return old.TS != "" && old.TS == m.TS && old.Channel == m.Channel })
		if at < 0 {
			s.mu.Unlock()
			s.reject(w, http.StatusOK, method, "message_not_found")
			return
		}
		m.user = s.messages[at].user
		s.messages[at] = m
	} else {
		s.serial++
		s.posted[m.Channel] = time.Now()
		m.user, m.Channel, m.TS = m.Channel, "D"+m.Channel[1:], fmt.Sprintf("%d.000100", s.serial)
		s.messages = append(s.messages, m)
	}
	s.mu.Unlock()
	_, _ = fmt.Fprintf(w, `{"ok":true,"channel":%q,"ts":%q}`, m.Channel, m.TS)
}

func (s *fakeSlack) reject(w http.ResponseWriter, status int, what, why string) {
	s.mu.Lock()
	s.rejected = append(s.rejected, what+": "+why)
	s.mu.Unlock()
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"ok":false,"error":%q}`, why)
}

// read collects the text and the buttons of a message's blocks.
func (m *message) readBlocks(content any) {
	switch content := content.(type) {
	case []any:
		for _, part := range content {
			m.readBlocks(part)
		}
	case map[string]any:
		if content["type"] == "button" {
			text, _ := json.Marshal(content)
			var b messageButton
			_ = json.Unmarshal(text, &b) // it was read as JSON
			m.buttons = append(m.buttons, b)
			return
		}
		if text, is := content["text"].(string); is {
			m.text += text + "\n"
		}
		for _, key := range []string{"blocks", "elements", "text"} {
			m.readBlocks(content[key])
		}
	}
}

// button returns the button that has an action_id.
func (m message) button(t testing.TB, id string) messageButton {
	t.Helper()
	at := slices.IndexFunc(m.buttons, func(b messageButton) bool { return b.ID == id })
	if at < 0 {
		t.Fatalf("the message has no button %q:\n%s", id, m.text)
	}
	return m.buttons[at]
}

// newResponseURL returns a new response_url.
func (s *fakeSlack) newResponseURL(kind string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.serial++
	responseURL := fmt.Sprintf("https://hooks.slack.com/%s/%s/%d/%x", kind, team, s.serial, sha256.Sum256([]byte{byte(s.serial), byte(s.serial >> 8)}))
	s.responseURLs[responseURL] = time.Now()
	return responseURL
}

// sendCommand sends a /bastion command. It returns the reply and the response_url.
func (s *fakeSlack) sendCommand(t testing.TB, user, text string) (reply message, at string) {
	t.Helper()
	at = s.newResponseURL("commands")
	body := s.sendForm(t, "/slack/command", commandForm(user, text, at))
	var content any
	if json.Unmarshal(body, &reply) != nil || json.Unmarshal(body, &content) != nil || reply.ResponseType != "ephemeral" {
		t.Fatalf("/bastion %s returned %s", text, body)
	}
	reply.readBlocks(content)
	return reply, at
}

func commandForm(user, text, responseURL string) url.Values {
	return url.Values{
		"team_id": {team}, "user_id": {user}, "channel_id": {channel}, "command": {"/bastion"}, "text": {text}, "response_url": {responseURL},
	}
}

// pressButton presses a button of a message and returns the response_url.
func (s *fakeSlack) pressButton(t testing.TB, user string, b messageButton) (at string) {
	t.Helper()
	at = s.newResponseURL("actions")
	payload, err := json.Marshal(map[string]any{
		"type": "block_actions", "team": map[string]string{"id": team}, "user": map[string]string{"id": user},
		"response_url": at, "actions": []messageButton{b},
	})
	if err != nil {
		t.Fatal(err)
	}
	if body := s.sendForm(t, "/slack/interaction", url.Values{"payload": {string(payload)}}); len(body) > 0 {
		t.Fatalf("the button returned %s", body)
	}
	return at
}

// sendForm sends a signed form and returns the body of the response.
func (s *fakeSlack) sendForm(t testing.TB, path string, form url.Values) []byte {
	t.Helper()
	body := form.Encode()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.app+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	signRequest(r.Header, body)
	response, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s returned %s %s, %v", path, response.Status, text, err)
	}
	return text
}

// signRequest adds Slack's signature of a body to the headers.
func signRequest(header http.Header, body string) {
	now := fmt.Sprint(time.Now().Unix())
	mac := hmac.New(sha256.New, []byte(signingSecret))
	mac.Write([]byte("v0:" + now + ":" + body))
	header.Set("X-Slack-Request-Timestamp", now)
	header.Set("X-Slack-Signature", "v0="+hex.EncodeToString(mac.Sum(nil)))
}

// directMessages returns the direct messages to a user that contain a text.
func (s *fakeSlack) directMessages(user, words string) (found []message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.messages {
		if m.responseURL == "" && m.user == user && strings.Contains(m.text, words) {
			found = append(found, m)
		}
	}
	return found
}

// waitForDirectMessage waits until a direct message to a user contains a text.
func (s *fakeSlack) waitForDirectMessage(t testing.TB, user, words string) message {
	t.Helper()
	return s.waitForDirectMessages(t, user, words, 1)[0]
}

// waitForDirectMessages waits until at least count direct messages of a user contain
// a text, and returns the last count of them.
func (s *fakeSlack) waitForDirectMessages(t testing.TB, user, words string, count int) []message {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for giveUp := time.Now().Add(waitLimit); ; <-tick.C {
		if found := s.directMessages(user, words); len(found) >= count {
			return found[len(found)-count:]
		}
		if time.Now().After(giveUp) {
			t.Fatalf("not within %s: %d direct messages with %q. There are:\n%v", waitLimit, count, words, s.directMessages(user, ""))
		}
	}
}

// waitForMessage waits until a message at a response_url has contained a text. Later
// messages may have replaced it.
func (s *fakeSlack) waitForMessage(t testing.TB, at, words string) message {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for giveUp := time.Now().Add(waitLimit); ; <-tick.C {
		shown := s.lastMessage(at, words)
		if shown.responseURL != "" {
			// The message of a button may be the status message, so it is not replaced.
			if shown.ReplaceOriginal != strings.Contains(at, "/commands/") || shown.ResponseType != "ephemeral" {
				t.Fatalf("the message replaces the wrong one, or is not ephemeral: %+v", shown)
			}
			return shown
		}
		if time.Now().After(giveUp) {
			t.Fatalf("not within %s: a message with %q. The last one is:\n%s", waitLimit, words, s.lastMessage(at, "").text)
		}
	}
}

// lastMessage returns the last message at a response_url that contains a text.
func (s *fakeSlack) lastMessage(at, words string) (last message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.messages {
		if m.responseURL == at && strings.Contains(m.text, words) {
			last = m
		}
	}
	return last
}

// newCertificate makes a self-signed certificate for host names and loopback, and returns
// it and its PEM file.
func newCertificate(t testing.TB, names ...string) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, DNSNames: names, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "trusted.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, file
}

// serveTLS is serve with TLS.
func (s *fakeSlack) serveTLS(t testing.TB, handler http.Handler) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{s.certificate}}
	server.StartTLS()
	t.Cleanup(func() {
		server.Close()
		s.tunnels.Wait()
	})
	return server.URL
}

// tunnel is the HTTP proxy. It connects to Slack's hosts only.
func (s *fakeSlack) tunnel(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodConnect || r.Host != "hooks.slack.com:443" && r.Host != "slack.com:443" {
		s.reject(w, http.StatusForbidden, "CONNECT "+r.Host, "not a host of Slack")
		return
	}
	inner, err := net.Dial("tcp", s.hostsAddress)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	outer, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		inner.Close()
		return
	}
	_, _ = io.WriteString(outer, "HTTP/1.1 200 Connection established\r\n\r\n")
	s.tunnels.Go(func() {
		defer outer.Close()
		defer inner.Close()
		var both sync.WaitGroup
		both.Go(func() { pipe(inner.(halfCloser), outer) })
		both.Go(func() { pipe(outer.(halfCloser), inner) })
		both.Wait()
	})
}
