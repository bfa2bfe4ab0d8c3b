package slack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	slackgo "github.com/slack-go/slack"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// This file has the replies to commands and buttons. The direct messages are in
// messages_direct.go.

// helpMessage lists the commands.
func helpMessage() *message {
	var lines []string
	for _, spec := range commands() {
		lines = append(lines, slash+" "+spec.usage+" - "+spec.summary)
	}
	return newMessage("How to use "+slash, "A bastion is your own temporary SSH entry point").
		paragraph("First register your public key. Then get a link, open it on the machine you'll run ssh from, and press the button there. Progress and the receipt come as direct messages from this app.").
		list(lines...).
		paragraph("The reason is all text after “because”, or only the quoted text after it. Only you can see the replies.")
}

// wrongMessage says why a command is not valid, and shows similar valid commands and the
// usage.
func wrongMessage(w *CommandError) *message {
	m := newMessage("That command isn't valid.", "That command isn't valid").paragraph("%s", w.Message)
	if len(w.Try) > 0 {
		m.paragraph("Did you mean:")
		for _, try := range w.Try {
			m.code(plain(slash+" "+try, maxText))
		}
	}
	if spec := specOf(w.Verb); spec.verb != "" && spec.verb != VerbHelp {
		m.paragraph("Usage: %s %s", slash, spec.usage)
	}
	return m
}

// refusalMessage is the reply for an error that has a sentence for people.
func refusalMessage(e *bastion.Error) *message {
	switch e.Code {
	case publickey.CodePrivate:
		return privateKeyMessage()
	case codeTeam, codeUser, codeChannel, codeNoToken, codeTooMany:
		return newMessage("Request not completed.", e.Message)
	case publickey.CodeInvalid, publickey.CodeTwo, publickey.CodeOptions, publickey.CodeCertificate, publickey.CodeTooWeak, publickey.CodeType:
		return newMessage("Key not accepted.", "Key not accepted").paragraph("%s", e.Message).
			paragraph("Usage:").code(slash + " " + specOf(VerbKey).usage)
	}
	return newMessage("Request not completed.", "Request not completed").paragraph("%s (%s)", e.Message, e.Code)
}

// privateKeyMessage is the reply to a person who has sent a private key to Slack.
func privateKeyMessage() *message {
	return newMessage("That was a private key: replace it.", "That was a private key: replace it").
		paragraph("We didn't store it, but Slack has it now. Anyone who gets it can log in as you.").
		list(
			"Make a new key: ssh-keygen -t ed25519",
			"Remove the old key from every authorized_keys file that contains it.",
			"Register the public half, the file whose name ends in .pub: "+slash+" "+specOf(VerbKey).usage,
		)
}

// keyMessage confirms which key was stored.
func keyMessage(key bastion.Key) *message {
	return newMessage("Key saved.", "Key saved").
		paragraph("New bastions will accept only this key: %s. Links created for your previous key no longer work; open bastions keep the key they were started with.", key.Fingerprint()).
		paragraph("Next: %s up", slash)
}

// noKeyMessage asks a person without a stored key to register one.
func noKeyMessage() *message {
	return newMessage("Register your public key first.", "Register your public key first").
		paragraph("I don't have a key for you yet. Copy the output of:").
		code("cat ~/.ssh/id_ed25519.pub").
		paragraph("and send it (never the file without .pub, which is your private key):").
		code(slash+" "+specOf(VerbKey).usage).
		paragraph("Then run %s up again.", slash)
}

// linkMessage shows a start link.
func linkMessage(link startLink, hash, url string) *message {
	open := button(actionOpen, hash, "Open the link").WithURL(url).WithStyle(slackgo.StylePrimary)
	lines := []string{"Name: " + link.Name, "Duration: " + inWords(link.TTL)}
	if link.Reason != "" {
		lines = append(lines, "Reason: "+link.Reason)
	}
	lines = append(lines, "Key: "+bastion.Key(link.Key).Fingerprint())
	return newMessage("Your link is ready.", "Open this link on the machine you'll run ssh from").
		paragraph("The page shows your address as the service sees it. Its button starts the bastion for that address and your key only. The link is for you only, works once and expires in %s.", inWords(startLinkLife)).
		list(lines...).
		buttons(open).
		dates("Expires %s.", link.ExpiresAt)
}

// workingMessage is the first reply to a command that becomes a job.
func workingMessage(job Job) *message {
	which := "your bastion"
	if job.Name != "" {
		which = "bastion " + job.Name
	}
	switch job.Action {
	case JobDown:
		return newMessage("Closing...", fmt.Sprintf("Closing %s...", which))
	case JobExtend:
		return newMessage("Extending...", fmt.Sprintf("Extending %s to at least %s from now...", which, inWords(job.TTL)))
	}
	return newMessage("Looking up your bastions...", "Looking up your bastions...")
}

// downSentence says that the API did not reply to a start.
const downSentence = "The bastion service isn't responding. Run " + slash + " status in a minute; if it lists no bastion, get a new link. If it keeps happening, tell your operator."

// The headings for a start that has failed, and for a start whose result is not known.
const (
	notStartedHeading = "The bastion couldn't be started"
	unknownHeading    = "We don't know whether the bastion was started"
)

// startHeading returns the heading above the sentence about a failed start.
func startHeading(sentence string) string {
	if sentence == downSentence {
		return unknownHeading
	}
	return notStartedHeading
}

// downMessage says that the API's functions do not reply.
func downMessage() *message {
	return newMessage("The bastion service isn't responding.", "The bastion service isn't responding").
		paragraph("We don't know whether your request was carried out. Try again in a minute; %s status lists what you have. If it keeps happening, tell your operator.", slash)
}

// notAcceptedMessage says that the queue or the table failed while the app handled a request.
func notAcceptedMessage() *message {
	return newMessage("The bastion service isn't responding.", "The bastion service isn't responding").
		paragraph("As far as we can tell, nothing was done. Try again in a minute; if it keeps happening, tell your operator.")
}

// messageOf returns the reply for an error of a command.
func messageOf(err error) *message {
	var wrong *CommandError
	var known *bastion.Error
	switch {
	case errors.As(err, &wrong):
		return wrongMessage(wrong)
	case errors.As(err, &known):
		return refusalMessage(known)
	}
	return notAcceptedMessage()
}

// notStartedMessage says that a used link has started no bastion, or that the service does
// not know whether it has. The heading and the sentence say which. The message also shows
// the address that used the link, so that the link's owner notices the use by somebody
// else.
func notStartedMessage(heading, sentence string, refusal *bastion.Error, from netip.Addr) *message {
	m := newMessage(heading+".", heading).paragraph("%s", sentence).
		paragraph("Your link was used from %s. If that wasn't you, someone else has used your link: tell your operator, and make sure that nothing is open: %s down", from, slash)
	if refusal != nil {
		m.paragraph("Code: %s", refusal.Code)
	}
	return m
}

// usedMessage says which address has used a start link. It replaces the message that
// contains the link.
func usedMessage(b Bastion, from netip.Addr) *message {
	m := newMessage("Your link was used.", fmt.Sprintf("Your link was used from %s", from)).
		paragraph("If that wasn't you, close the bastion now and tell your operator: someone else has used your link.")
	return m.bastion(b, "Close bastion").paragraph("Progress comes as direct messages from this app.")
}

// closingMessage is the reply to down.
func closingMessage(b Bastion) *message {
	if isOver(b) {
		return newMessage("Your bastion is already closed.", fmt.Sprintf("Bastion %s is already closed", b.Name))
	}
	if b.IsDelayed() {
		return newMessage("Closing your bastion is delayed.", fmt.Sprintf("Closing bastion %s is delayed", b.Name)).delay(b).
			paragraph("You'll get a receipt as a direct message once everything is removed.")
	}
	return newMessage("Your bastion is closing.", fmt.Sprintf("Bastion %s is closing", b.Name)).
		paragraph("It no longer accepts connections, and open connections are dropped. You'll get a receipt as a direct message once everything is removed, which can take AWS up to 15 minutes.")
}

// extendedMessage is the reply to extend.
func extendedMessage(b Bastion, job Job) *message {
	notification, title := "Your bastion is extended.", fmt.Sprintf("Bastion %s extended", b.Name)
	// A difference of up to a minute may come from rounding or from differing clocks.
	if requested := job.At.Add(job.TTL); b.Deadline.After(requested.Add(time.Minute)) {
		notification, title = "Your bastion already runs longer than that.", fmt.Sprintf("Bastion %s already runs longer than that", b.Name)
	}
	if b.IsDelayed() {
		return newMessage("Extending your bastion is delayed.", fmt.Sprintf("Extending bastion %s is delayed", b.Name)).bastion(b, "Close bastion")
	}
	return newMessage(notification, title).bastion(b, "Close bastion")
}

// maxListed is the largest number of bastions in one message: each takes eight blocks,
// and Slack accepts fifty.
const maxListed = 6

// listMessage is the reply to status.
func listMessage(all []Bastion) *message {
	if len(all) == 0 {
		return newMessage("You have no bastions.", "You have no bastions").paragraph("Start one with %s up", slash)
	}
	m := &message{notification: "Your bastions."}
	for _, b := range all[:min(len(all), maxListed)] {
		m.bastion(b, "Close "+shortened(b.Name, maxNameShown))
	}
	if more := len(all) - maxListed; more > 0 {
		m.paragraph("And %d more.", more)
	}
	return m
}

// maxNameShown is the largest number of characters of a name on a button.
const maxNameShown = 32

// whichMessage asks for the name of one of several bastions, or says that there is none.
func whichMessage(which whichError, job Job) *message {
	verb, example := "close", Command{Verb: VerbDown}
	if job.Action == JobExtend {
		verb, example = "extend", Command{Verb: VerbExtend, TTL: job.TTL}
	}
	if len(which.open) == 0 {
		return newMessage("You have no open bastion.", fmt.Sprintf("You have no open bastion to %s", verb)).
			paragraph("Start one with %s up", slash)
	}
	title := fmt.Sprintf("You have several open bastions: which one do you want to %s?", verb)
	if which.name != "" {
		title = fmt.Sprintf("You have no open bastion %s", which.name)
	}
	m := newMessage("Which bastion?", title)
	for _, b := range which.open[:min(len(which.open), maxListed)] {
		example.Name = b.Name
		m.code(slash+" "+example.String()).
			bastionButtons(b, "Close "+shortened(b.Name, maxNameShown))
	}
	return m
}

// bastion adds the state and the details of a bastion, and its buttons.
func (m *message) bastion(b Bastion, closeLabel string) *message {
	m.title(stateTitle(b)).delay(b).list(details(b)...)
	if b.State == bastion.Ready {
		m.connecting(b)
	}
	if !b.IsOpen() {
		return m
	}
	return m.openUntil(b, closeLabel)
}

// openUntil adds the deadline of an open bastion, and its buttons.
func (m *message) openUntil(b Bastion, closeLabel string) *message {
	return m.dates("Open until %s; can be extended until %s.", b.Deadline, b.LatestDeadline).bastionButtons(b, closeLabel)
}

// stateTitle returns the name, state and stage of a bastion.
func stateTitle(b Bastion) string {
	title := fmt.Sprintf("Bastion %s is %s", b.Name, b.State)
	if b.State == bastion.Failed {
		title = fmt.Sprintf("Bastion %s failed", b.Name)
	}
	if text := api.StageText(b.Stage); text != "" {
		title += ": " + strings.ToLower(text[:1]) + text[1:]
	}
	return title
}

// delay adds what AWS refused, what the service does about a delay, and what the person
// can do. It adds nothing if the bastion is not delayed.
func (m *message) delay(b Bastion) *message {
	if !b.IsDelayed() {
		return m
	}
	if b.Failure != nil {
		m.paragraph("AWS refused the latest step: %s (%s)", b.Failure.Message, b.Failure.Code)
	}
	m.paragraph("%s", b.DelaySentence())
	if b.State == bastion.Closing {
		m.dates("The deadline is %s.", b.Deadline)
	}
	return m
}

// details returns the keys that a bastion accepts, each with its addresses, and how the
// bastion is reached.
func details(b Bastion) []string {
	var lines []string
	for i, key := range b.Keys {
		accepts := "Accepts: key " + key + " from " + addressesOf(b, key) + "."
		if i == len(b.Keys)-1 && b.IsOpen() {
			accepts += " If an accepted key or address isn't yours, close the bastion now."
		}
		lines = append(lines, accepts)
	}
	if b.Host != "" {
		lines = append(lines, "Address: "+net.JoinHostPort(b.Host, strconv.Itoa(b.Port)))
	}
	if b.Reason != "" {
		lines = append(lines, "Reason: "+b.Reason)
	}
	return lines
}

// addressesOf returns the addresses from which a bastion accepts a key.
func addressesOf(b Bastion, key string) string {
	for _, a := range b.Admissions {
		if a.Key == key {
			return addresses(a.Sources)
		}
	}
	return addressOnly(b.Source) // an earlier version of the API returns no admissions
}

func addresses(sources []string) string {
	var all []string
	for _, source := range sources {
		all = append(all, addressOnly(source))
	}
	return strings.Join(all, ", ")
}

// addressOnly returns a source as people write it: a single address without /32 or /128,
// and any other source unchanged.
func addressOnly(source string) string {
	return strings.TrimSuffix(strings.TrimSuffix(source, "/32"), "/128")
}

// connecting adds the configuration for ssh and the command that uses it. The comments of
// the configuration would make it too long for a message; the status page has them.
func (m *message) connecting(b Bastion) *message {
	if b.SSHConfig == "" {
		return m
	}
	file, _, command := connectVia(b)
	return m.paragraph("Save the lines below as %s. If you use Windows, OpenSSH before 8.5 or an SSH library, download the file from the page of your link instead: the comments in the file say what to do. If that page has expired, run /bastion up again.", file).
		code(withoutComments(b.SSHConfig)).
		paragraph("Then run this command to connect through the bastion. If ssh does not find your key, add an IdentityFile line to the file.").
		code(command)
}

// withoutComments returns the lines of an ssh configuration that are not comments.
func withoutComments(config string) string {
	return strings.Join(slices.DeleteFunc(strings.SplitAfter(config, "\n"), func(line string) bool {
		return strings.HasPrefix(line, "#")
	}), "")
}
