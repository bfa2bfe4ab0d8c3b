// Package slack lets people start and control bastions from Slack.
//
// Slack's servers make the requests, so a command does not tell the address of its
// sender. The command up therefore replies with a start link. The page behind it
// shows the owner, the key and the address that the page is opened from; only its
// button starts the bastion, for the address that pressed it.
//
// A request's signature is verified over the raw body; then the command is read
// ([ParseCommand]) and replied to at once. What takes longer is a [Job], which runs
// apart from the request ([App.RunJob]) and replies through the request's
// response_url. Jobs call the API ([Functions]) as any client would, under an owner
// that begins with "slack:".
//
// What becomes of a bastion afterwards arrives as notices ([App.Notify]), which are
// brought to the owner's direct messages. Messages that Slack's rate limits keep back
// wait in an outbox.
//
// The package uses no cloud service. It stores its state in a [Table].
package slack
