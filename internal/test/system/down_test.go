//go:build conformance

package system

import (
	"net/http"
	"strings"
	"testing"
)

// Whoever asks while the functions are down is told so: at once if nothing could be
// handed over, and otherwise in the place of the first answer.
func TestOutageIsReportedToSlackUser(t *testing.T) {
	o := newSlackFixture(t, compile(t, "./functions/slack"))
	dave := &slackUser{apiUser: apiUser{deployment: &deployment{slack: o.slack}, sourceIP: "127.0.0.1"}, userID: "UDAVE"}
	dave.generateKey(t)
	o.setBackends(down)
	if said, _ := o.slack.sendCommand(t, dave.userID, "key "+dave.readPublicKey(t)); !strings.Contains(said.text, "Key saved") {
		t.Errorf("key was answered\n%s", said.text) // it takes none of them
	}
	for _, command := range []string{"status", "extend 30m", "down"} {
		if said, _ := o.slack.sendCommand(t, dave.userID, command); !strings.Contains(said.text, "The bastion service isn't responding") {
			t.Errorf("%s, with nothing to hand it to, was answered\n%s", command, said.text)
		}
	}
	at := o.slack.pressButton(t, dave.userID, messageButton{ID: "extend", Value: bastionIDs["reaper"]})
	if said := o.slack.lastMessage(at, ""); !strings.Contains(said.text, "The bastion service isn't responding") || said.ReplaceOriginal {
		t.Errorf("a button, with nothing to hand it to, was answered %+v", said)
	}
	said, place := o.slack.sendCommand(t, dave.userID, "up")
	dave.startLink = said.button(t, "open").URL // a link takes none of them either
	if status, page := dave.pressStart(t); status != http.StatusServiceUnavailable || !strings.Contains(page, "nothing was started") {
		t.Errorf("the page answered %d\n%s", status, page)
	}
	o.setBackends(failing)
	for _, command := range []string{"status", "extend 30m", "down"} {
		said, at := o.slack.sendCommand(t, dave.userID, command)
		if !strings.Contains(said.text, "...") {
			t.Errorf("%s was answered\n%s", command, said.text)
		}
		o.slack.waitForMessage(t, at, "The bastion service isn't responding")
	}
	if status, page := dave.pressStart(t); status != http.StatusSeeOther {
		t.Fatalf("the page answered %d\n%s", status, page)
	}
	o.slack.waitForMessage(t, place, "The bastion service isn't responding")
	if _, page, _ := dave.browse(t, dave.statusPage); !strings.Contains(page, "Bastion not started") {
		t.Errorf("the page says\n%s", page)
	}
}
