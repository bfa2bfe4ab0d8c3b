// Package clients drives SSH clients that were written elsewhere against bastiond, and
// writes what they can do to docs/clients.md. scripts/emulators installs the clients. The
// tests have the build tag conformance and run in `make clients`.
//
// The programs with a command line (ssh, plink, dbclient) are run once for each request.
// For each library, testdata has a small program in the library's language. It reads one
// request from each line of standard input, runs it, and prints one line: "ok RESULT" or
// "error MESSAGE", where " | " stands for a line break. A request has these words:
//
//	OP HOST PORT KEY KNOWN_HOSTS [TARGET_HOST TARGET_PORT [FILE]]
//
// For each request, the client connects to the SSH server at HOST and PORT as the user
// bastion. It accepts only a host key that is in the file KNOWN_HOSTS, and logs in with the
// private key in the file KEY. These are the operations:
//
//   - status runs the command status. The result is its output.
//   - jump connects to the SSH server at the target through a forward, checks that server's
//     host key in the same way, and runs the command status there.
//   - pipe opens a forward to the target, sends the file, closes its direction, and reads
//     until the target closes the other one. The result is the number of the received
//     bytes and their SHA-256 hash, in hexadecimal.
//   - rekey is pipe with a key exchange after about half of the file. If the client has
//     seen the end of this key exchange, the result also has the word "rekeyed".
//   - forward is pipe through a local port, if the client can listen on one.
package clients
