// Package localmode is the whole service on a laptop: the same handlers, domain
// and SSH server as on AWS, with localcloud in AWS's place, in one process.
//
// It only wires. What it adds of its own is what a laptop lacks: a private
// network ([network]) that exists inside bastions alone, with one host in it to
// connect to ([privateHost]); a guard that keeps other machines and web pages
// away from the API ([guard]); and the schedules and events that EventBridge
// delivers on AWS.
package localmode
