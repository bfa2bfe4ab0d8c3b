package httpapi

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpedge"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// sshUser is the login name for all bastions; the key identifies the person.
const sshUser = "bastion"

// Document returns the document that the API returns for a bastion. Each target has a
// block in its ssh configuration.
func Document(rec bastion.Record, targets ...Target) api.Bastion {
	d := api.NewBastion(rec)
	at, ok := accessOf(rec)
	if !ok {
		return d
	}
	d.Host, d.Port, d.User = at.endpoint.Addr().String(), int(at.endpoint.Port()), sshUser
	for _, e := range rec.Endpoints() {
		d.Endpoints = append(d.Endpoints, api.Endpoint{Host: e.Addr().String(), Port: int(e.Port())})
	}
	if len(at.hostKeys) > 0 {
		for _, key := range at.hostKeys {
			d.HostKeys = append(d.HostKeys, string(key))
		}
		d.HostKey, d.KnownHosts = d.HostKeys[0], strings.Join(at.knownHosts(), "\n")
		if at.other.IsValid() {
			d.KnownHosts += "\n" + strings.Join(at.overOther().knownHosts(), "\n")
		}
		d.SSHConfig, d.SSH = sshConfig(fileName(at), []access{at}, targets), at.consoleCommand()
	}
	return d
}

// json returns the result as a JSON document.
func (h *handler) json(res result) []byte {
	documents := make([]api.Bastion, 0, len(res.records))
	for _, rec := range res.records {
		d := Document(rec, h.Targets...)
		d.AddedKey = res.added.Fingerprint()
		documents = append(documents, d)
	}
	if res.list {
		return httpedge.Marshal(api.List{Bastions: documents})
	}
	return httpedge.Marshal(documents[0])
}

// text returns the result as a configuration file for ssh. First, comments describe the
// state of each bastion and what to do next. Then each ready bastion of the caller has a
// Host block. The bastions of other owners have none, because they do not accept the
// caller's key, and because two owners can use the same name.
func (h *handler) text(caller bastion.Caller, res result) []byte {
	var b strings.Builder
	var ready []access
	for i, rec := range res.records {
		if i > 0 {
			b.WriteByte('\n')
		}
		h.describe(&b, rec)
		if res.added != "" {
			comment(&b, "added the key %s: the bastion admits %d keys, each from its own sources", res.added.Fingerprint(), len(rec.Intent.Keys))
		}
		at, ok := accessOf(rec)
		if ok && len(at.hostKeys) > 0 && rec.State() == bastion.Ready && rec.Owner == caller.Owner {
			ready = append(ready, at)
		}
	}
	if len(res.records) == 0 {
		comment(&b, "no bastions: POST %s creates one", collection)
	}
	if len(ready) > 0 {
		b.WriteByte('\n')
		h.explain(&b, ready)
		b.WriteByte('\n')
		b.WriteString(sshConfig(fileName(ready...), ready, h.Targets))
	}
	return []byte(b.String())
}

// describe writes the comments about one bastion.
func (h *handler) describe(b *strings.Builder, rec bastion.Record) {
	d, path := api.NewBastion(rec), collection+"/"+rec.ID
	comment(b, "bastion %s: %s", d.Name, d.State)
	switch d.State {
	case bastion.Starting:
		comment(b, "stage %s: %s", d.Stage, api.StageText(d.Stage))
		h.describeDelay(b, d)
	case bastion.Ready:
		comment(b, "open until %s (%s left)", timestamp(d.Deadline), bastion.FormatTTL(max(0, d.Deadline.Sub(h.Now()))))
		comment(b, "can be extended until %s", timestamp(d.LatestDeadline))
		if ago := h.Now().Sub(d.SeenAt); ago >= seenNow {
			comment(b, "AWS last showed it ready %s ago", bastion.FormatTTL(ago.Truncate(time.Second)))
		}
	case bastion.Closing, bastion.Closed:
		if d.Stage != "" {
			comment(b, "stage %s: %s", d.Stage, api.StageText(d.Stage))
		}
		if !d.IsDelayed() || d.Ended.Reason != bastion.EndClosed {
			comment(b, "%s", api.EndSentence(d.Ended.Reason))
		}
		h.describeDelay(b, d)
	case bastion.Failed:
		comment(b, "%s: %s", d.Failure.Code, d.Failure.Message)
	}
	describeAccess(b, rec)
	if d.Reason != "" {
		comment(b, "reason: %s", d.Reason)
	}
	switch d.State {
	case bastion.Starting:
		comment(b, "poll: GET %s with the headers Accept: text/plain and Prefer: wait=%d", path, int(h.MaxWait.Seconds()))
	case bastion.Closing:
		comment(b, "being removed: DELETE %s returns 200 when nothing is left", path)
	case bastion.Closed, bastion.Failed:
		comment(b, "POST %s creates a new one", collection)
	}
}

// describeAccess writes the comments about the keys and their sources.
func describeAccess(b *strings.Builder, rec bastion.Record) {
	all := rec.Intent.Admissions()
	head := fmt.Sprintf("id %s, owner %s", rec.ID, rec.Owner)
	if len(all) == 1 && len(all[0].Sources) == 1 {
		comment(b, "%s, source %s, key %s", head, bastion.SourceList(all[0].Sources), all[0].Key.Fingerprint())
		return
	}
	comment(b, "%s", head)
	for _, a := range all {
		comment(b, "key %s from %s", a.Key.Fingerprint(), bastion.SourceList(a.Sources))
	}
}

// seenNow is the age below which a bastion was seen ready by the request itself.
const seenNow = 2 * time.Second

// describeDelay writes the comments about a step that AWS refused or did not carry out.
func (h *handler) describeDelay(b *strings.Builder, d api.Bastion) {
	if !d.IsDelayed() {
		return
	}
	if d.Failure != nil {
		comment(b, "AWS refused the latest step, %s: %s", d.Failure.Code, d.Failure.Message)
	}
	comment(b, "%s", d.DelaySentence())
	if d.State == bastion.Closing {
		comment(b, "deadline: %s", timestamp(d.Deadline))
	}
}

// explain writes comments about how to use the Host blocks that follow.
func (h *handler) explain(b *strings.Builder, ready []access) {
	file, alias := fileName(ready...)+".conf", bastion.HostAlias(ready[0].name)
	target := "TARGET"
	if len(h.Targets) > 0 {
		target = h.Targets[0].Name
	}
	comment(b, "save as %s, then: ssh -F %s -J %s %s", file, file, alias, target)
	comment(b, "status, extend, close: ssh -F %s %s", file, alias)
	comment(b, "if ssh does not find your key, append a line: IdentityFile ~/.ssh/YOUR-KEY")
	comment(b, "if your ~/.ssh/config has an IdentityAgent line, append it too: ssh -F does not read that file")
}

// fileName returns the name without .conf under which people save a configuration file.
func fileName(bastions ...access) string {
	if len(bastions) > 1 {
		return "bastions"
	}
	return bastion.HostAlias(bastions[0].name)
}

func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// comment writes one comment line. Unprintable characters, above all line ends,
// become spaces, so that text of a person or a task cannot leave the comment.
func comment(b *strings.Builder, format string, args ...any) {
	b.WriteString("# ")
	b.WriteString(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, fmt.Sprintf(format, args...)))
	b.WriteByte('\n')
}

// access is the address of a bastion and the host keys that prove its identity; there are
// none while they are not known.
type access struct {
	name     string
	endpoint netip.AddrPort
	other    netip.AddrPort // in the other family, if the sources have both
	hostKeys []bastion.Key
}

// accessOf returns how to reach a bastion; ok is false if it has no address yet or
// has begun to end.
func accessOf(rec bastion.Record) (at access, ok bool) {
	at = access{name: rec.Name, endpoint: rec.Endpoint()}
	if !rec.Intent.Open || !at.endpoint.IsValid() {
		return access{}, false
	}
	if all := rec.Endpoints(); len(all) > 1 {
		at.other = all[1]
	}
	// The task reported these keys, and people save them in configuration files of ssh. If
	// a text were more than one key, it could contain options that make ssh run a command.
	for _, reported := range rec.Attempt.HostKeys() {
		if key, err := publickey.Parse(string(reported)); err == nil && !slices.Contains(at.hostKeys, key) {
			at.hostKeys = append(at.hostKeys, key)
		}
	}
	return at, true
}

// knownHosts returns the bastion's lines for a known_hosts file, one for each host key. ssh
// looks for HOST if the port is 22, and for [HOST]:PORT otherwise.
func (at access) knownHosts() (lines []string) {
	host := at.endpoint.Addr().String()
	if at.endpoint.Port() != 22 {
		host = "[" + host + "]:" + at.port()
	}
	for _, key := range at.hostKeys {
		lines = append(lines, host+" "+string(key))
	}
	return lines
}

// overOther returns the access over the endpoint of the other family.
func (at access) overOther() access {
	at.endpoint, at.other = at.other, at.endpoint
	return at
}

// otherAlias returns the Host of the endpoint in the other family. No name of a bastion has
// a dot, so no other bastion has the same alias.
func (at access) otherAlias() string {
	if at.other.Addr().Is4() {
		return bastion.HostAlias(at.name) + ".ipv4"
	}
	return bastion.HostAlias(at.name) + ".ipv6"
}

func (at access) port() string { return strconv.Itoa(int(at.endpoint.Port())) }

// fastCiphers makes ssh use AES-GCM. OpenSSH before 10.0 prefers AES-CTR, which bastions
// offer to clients that have no AES-GCM, and which is slower.
const fastCiphers = "Ciphers aes128-gcm@openssh.com,aes256-gcm@openssh.com"

// hostKeyOptions make ssh accept only the host keys that the KnownHostsCommand prints.
// ssh reads no known_hosts file, which could have the key of an earlier host at the same
// address. It refuses a host with another key.
var hostKeyOptions = []string{
	"UserKnownHostsFile /dev/null",
	"GlobalKnownHostsFile /dev/null",
	"StrictHostKeyChecking yes",
}

// sshConfig returns a configuration file for ssh with a Host block for each bastion and
// each target. The host keys of the bastions must be known. ssh does not use the options
// of its command line for a -J hop, so the file has all options that the hop needs. The
// last block matches all of these hosts, so a line that a person appends to the file,
// such as IdentityFile, applies to each of them. The first lines are comments for SSH
// clients that cannot use KnownHostsCommand; name is the file's name without .conf.
func sshConfig(name string, bastions []access, targets []Target) string {
	var b strings.Builder
	b.WriteString(api.WithoutKnownHostsCommand(name))
	for _, at := range bastions {
		knownHostsComments(&b, at.knownHosts()...)
		if at.other.IsValid() {
			knownHostsComments(&b, at.overOther().knownHosts()...)
		}
	}
	for _, target := range targets {
		knownHostsComments(&b, target.knownHosts())
	}
	var hosts []string
	for _, at := range bastions {
		hosts = append(hosts, bastion.HostAlias(at.name))
		block(&b, bastion.HostAlias(at.name),
			"HostName "+at.endpoint.Addr().String(),
			"Port "+at.port(),
			"User "+sshUser,
			fastCiphers,
			knownHostsCommand(at.knownHosts()...))
		if at.other.IsValid() {
			hosts = append(hosts, at.otherAlias())
			other := at.overOther()
			block(&b, at.otherAlias(),
				"HostName "+other.endpoint.Addr().String(),
				"Port "+other.port(),
				"User "+sshUser,
				fastCiphers,
				knownHostsCommand(other.knownHosts()...))
		}
	}
	for _, target := range targets {
		hosts = append(hosts, target.Name)
		block(&b, target.Name,
			"User "+target.User,
			knownHostsCommand(target.knownHosts()))
	}
	if len(hosts) > 1 {
		block(&b, strings.Join(hosts, " "))
	}
	writeLines(&b, hostKeyOptions)
	return b.String()
}

// knownHostsComments writes known_hosts lines as comments, from which a person can make
// a known_hosts file.
func knownHostsComments(b *strings.Builder, lines ...string) {
	for _, line := range lines {
		b.WriteString(api.KnownHostsPrefix + line + "\n")
	}
}

// knownHostsCommand returns the option that prints known_hosts lines. Each line has three
// words: the host, the type of the key and the key. printf uses its format again until no
// word is left. ssh needs an absolute path, and each system has printf elsewhere, so env
// finds it; ssh replaces %% by %. The option needs OpenSSH 8.5. With UserKnownHostsFile
// instead, each client would have to write a second file and delete it later.
func knownHostsCommand(lines ...string) string {
	return `KnownHostsCommand /usr/bin/env printf "%%s %%s %%s\n" ` + strings.Join(lines, " ")
}

func block(b *strings.Builder, hosts string, lines ...string) {
	fmt.Fprintf(b, "Host %s\n", hosts)
	writeLines(b, lines)
}

func writeLines(b *strings.Builder, lines []string) {
	for _, line := range lines {
		fmt.Fprintf(b, "  %s\n", line)
	}
}

// consoleCommand returns one shell command that opens the status console, with all
// options on the command line. Nothing in it needs more quoting than single quotes: it
// holds addresses, a port, base64 and the format of printf.
func (at access) consoleCommand() string {
	words := []string{"ssh", "-p", at.port(), "-o", "'" + strings.Replace(knownHostsCommand(at.knownHosts()...), " ", "=", 1) + "'"}
	for _, option := range hostKeyOptions {
		words = append(words, "-o", strings.Replace(option, " ", "=", 1))
	}
	return strings.Join(append(words, sshUser+"@"+at.endpoint.Addr().String()), " ")
}
