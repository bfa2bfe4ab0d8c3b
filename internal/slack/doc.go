// Package slack is the second door: a bastion from a slash command, for the
// address that the person is really at.
//
// Slack's servers call us, so a command does not tell where its person is. "up"
// therefore answers with a claim link; whoever opens it sees whose bastion it
// would be, for which key and for which address, and only the button on that page
// starts it, for the address that the button was pressed from.
//
// A request goes one way: is it Slack's, by the signature over the raw body; whose
// and what is it ([ParseCommand]); an answer at once; and a [Job] that somebody does
// apart from the request ([App.Do]). Jobs ask the service's own functions
// ([Functions]) as any client would, under an owner that begins with "slack:". What
// becomes of a bastion afterwards comes back as a [Notice] ([App.Tell]), each time
// that its record changed: nothing here waits for anything, and a notice that is
// lost comes again.
//
// The package touches no cloud. It remembers in a [Table] of its own, calls
// functions, and posts to Slack.
package slack
