// Package slack lets people start and control bastions from Slack.
//
// Slack's servers make the requests, so a command does not carry the address of its
// sender. The command up therefore replies with a start link. The page of the link
// shows the owner, the key and the address that the browser connects from. Only the
// button of that page starts the bastion, for the address that the page showed.
//
// The app verifies a request's signature over the raw body, parses the command
// ([ParseCommand]) and replies at once. Work that takes longer is a [Job]. It runs
// apart from the request ([App.RunJob]) and replies through the request's
// response_url. Jobs call the API ([Functions]) as any client would, under an owner
// that begins with "slack:".
//
// Later changes of a bastion arrive as notices ([App.Notify]). The app sends them to
// the owner as direct messages. Messages that Slack's rate limits do not allow yet
// wait in an outbox.
//
// The package uses no cloud service. It stores its state in a [Table].
package slack
