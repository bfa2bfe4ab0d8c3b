// Package soak lets random people use local mode for a while, and checks that every rule
// holds meanwhile and that nothing is left afterwards. `make soak TIME=10m SEED=7` runs it.
// The tests have the build tag conformance; `make conformance` runs a minute of them, with
// the race detector.
//
// The people create, move, extend and close bastions, send traffic through them with Go's
// SSH library and with OpenSSH, break connections, send garbage to the API and to the
// ports of bastions, and try to get into the bastions of others. Tasks are killed. In
// addition, bastiond runs as a process with a lease in a folder, which has two keys with
// addresses of their own; a later lease removes one key, and the process is killed with
// SIGKILL, or ends in another way.
//
// # What is random
//
// The seed and a person's number give each step of that person: what it does and all its
// parameters. The times at which the steps happen are not part of the seed, so a failure
// that needs a certain order of events may not happen again at the first try.
//
// # What is checked
//
//   - Each login and each connection is compared with what owners have asked for (access):
//     nobody gets in with a key, or reaches the server from an address, that no request has
//     asked for or that a later request has replaced. No closed bastion lets anybody in.
//     The key and the address that a ready bastion has in the API's response do get in.
//   - Each byte of each transfer is compared with what was sent.
//   - The API never responds with a server error, and only with the statuses that the
//     request can cause; states and deadlines never move back.
//   - The receipt of each bastion has the connections, forwards, refusals and bytes that
//     the clients and destinations have counted.
//   - At the end: every record is finished; no task, group, open lease or process is left;
//     there are as many goroutines and open files as before; memory is bounded.
package soak
