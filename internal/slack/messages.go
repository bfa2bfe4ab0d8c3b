package slack

import (
	"errors"
	"fmt"

	slackgo "github.com/slack-go/slack"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// This file holds what people read at once, before anything is known of a bastion.

// slash is what people type before a command.
const slash = "/bastion"

// helpLetter says all that can be typed.
func helpMessage() *message {
	return newMessage("How to use "+slash, "A bastion is an SSH way in for you alone, while you need it").
		say("The first time, tell me your public key. Then ask for a bastion, open the link on the machine you will use ssh from, and press the button there.").
		list(
			slash+" key ssh-ed25519 AAAA… - remember your public key",
			slash+" up - a bastion; also: up for 2h name web because “deploy”",
			slash+" status - what you have, and how to connect",
			slash+" extend 30m - keep it for at least so long from now; with more than one: extend 30m web",
			slash+" down - close it; with more than one: down web",
		).
		say("What follows because goes to the end of the line, unless it is in quotes. Only you see the answers.")
}

// wrongLetter says what was wrong with a command, and the nearest right one.
func wrongMessage(w *Wrong) *message {
	l := newMessage("That command was not understood.", "That command was not understood").say("%s", w.Message)
	if w.Try != "" {
		l.say("The nearest right command:").code(plain(slash+" "+w.Try, maxText))
	}
	return l
}

// refusalLetter is an error with a sentence of its own.
func refusalMessage(e *bastion.Error) *message {
	switch e.Code {
	case publickey.CodePrivate:
		return privateKeyMessage()
	case codeTeam, codeUser, codeChannel, codeTooMany:
		return newMessage("That was not done.", e.Message)
	case publickey.CodeInvalid, publickey.CodeTwo, publickey.CodeOptions, publickey.CodeCertificate, publickey.CodeTooWeak, publickey.CodeType:
		return newMessage("That key was not taken.", "That key was not taken").say("%s", e.Message).
			say("The right command:").code(slash + " " + examples[VerbKey])
	}
	return newMessage("That was not done.", "That was not done").say("%s (%s)", e.Message, e.Code)
}

// privateKeyLetter is for somebody who has just shown a private key to Slack.
func privateKeyMessage() *message {
	return newMessage("That was a private key: replace it.", "That was a private key: replace it").
		say("It was neither read nor stored here, but it has left your machine: Slack has it. Whoever gets hold of it is you, to every server that knows it.").
		list(
			"Make a new one: ssh-keygen -t ed25519",
			"Take the old one out of everywhere it lets you in.",
			"Tell me the public half, the file whose name ends in .pub: "+slash+" key ssh-ed25519 AAAA…",
		)
}

// keyLetter says which key is remembered now.
func keyMessage(key bastion.Key) *message {
	return newMessage("Your key is remembered.", "Your key is remembered").
		say("Bastions that you ask for from now on let in %s and no other key. Links for another key are void now; a bastion that is open keeps its own.", key.Fingerprint()).
		say("Next: %s up", slash)
}

// noKeyLetter asks for a key first.
func noKeyMessage() *message {
	return newMessage("First tell me your public key.", "First tell me your public key").
		say("A bastion lets in one key, and I know none of yours. Copy the line that this prints:").
		code("cat ~/.ssh/id_ed25519.pub").
		say("and send it, never the file without .pub:").
		code(slash+" "+examples[VerbKey]).
		say("Then ask again: %s up", slash)
}

// linkLetter holds the link of a claim.
func linkMessage(c startLink, hash, url string) *message {
	open := button(actionOpen, hash, "Open the link").WithURL(url).WithStyle(slackgo.StylePrimary)
	lines := []string{"Name: " + c.Name, "For: " + inWords(c.TTL)}
	if c.Reason != "" {
		lines = append(lines, "Because: "+c.Reason)
	}
	lines = append(lines, "Key: "+bastion.Key(c.Key).Fingerprint())
	return newMessage("Your link is ready.", "Open this on the machine you will use ssh from").
		say("The page there shows the address it sees you at. Its button starts the bastion, for that address and your key only. The link works once, for %s, and is yours alone: do not pass it on.", inWords(startLinkLife)).
		list(lines...).
		buttons(open).
		dates("Valid until %s.", c.ExpiresAt)
}

// workingLetter is the first answer to what takes a while.
func workingMessage(job Job) *message {
	which := "your bastion"
	if job.Name != "" {
		which = "bastion " + job.Name
	}
	switch job.Action {
	case JobDown:
		return newMessage("Closing.", fmt.Sprintf("I am asking for %s to be closed", which)).say("The answer follows here.")
	case JobExtend:
		return newMessage("Extending.", fmt.Sprintf("I am asking for %s to stay for %s from now", which, inWords(job.TTL))).say("The answer follows here.")
	}
	return newMessage("Looking.", "I am asking which bastions you have").say("The answer follows here.")
}

// downLetter is for when the service's own functions do not answer.
func downMessage() *message {
	return newMessage("The service does not answer.", "The bastion service does not answer").
		say("It is not known whether what you asked for was begun. Try again in a minute; %s status says what there is. If it goes on, tell your operator.", slash)
}

// notTakenLetter is for when a job could not be handed over.
func notAcceptedMessage() *message {
	return newMessage("The service does not answer.", "The bastion service does not answer").
		say("Nothing was done as far as is known. Try again in a minute; if it goes on, tell your operator.")
}

// letterOf is what a person reads of an error in finding an answer.
func messageOf(err error) *message {
	var wrong *Wrong
	var known *bastion.Error
	switch {
	case errors.As(err, &wrong):
		return wrongMessage(wrong)
	case errors.As(err, &known):
		return refusalMessage(known)
	}
	return notAcceptedMessage()
}
