package httpapi

import (
	"fmt"
	"strings"
)

// hostAlias is what people call a bastion in ssh's command line.
func hostAlias(name string) string { return "bastion-" + name }

// shared is what holds for every host whose key a KnownHostsCommand tells: no
// other file may add a key, or contradict because the address was once somebody
// else's, and a host that does not prove itself is refused.
var shared = []string{
	"UserKnownHostsFile /dev/null",
	"GlobalKnownHostsFile /dev/null",
	"StrictHostKeyChecking yes",
}

// sshConfig is a configuration file for ssh in which the bastions, whose host keys
// must be known, and the targets are hosts. Options on ssh's command line do not
// reach a -J hop, so all that it needs stands here. The last block is open to all
// of these hosts: a line that a person appends, such as IdentityFile, holds for
// each.
func sshConfig(bastions []access, targets []Target) string {
	var b strings.Builder
	var hosts []string
	for _, at := range bastions {
		hosts = append(hosts, hostAlias(at.name))
		block(&b, hostAlias(at.name),
			"HostName "+at.endpoint.Addr().String(),
			"Port "+at.port(),
			"User "+sshUser,
			knownHostsCommand(at.knownHosts()))
	}
	for _, target := range targets {
		hosts = append(hosts, target.Name)
		block(&b, target.Name,
			"User "+target.User,
			knownHostsCommand(target.Name+" "+string(target.HostKey)))
	}
	if len(hosts) > 1 {
		block(&b, strings.Join(hosts, " "))
	}
	writeLines(&b, "  ", shared)
	return b.String()
}

// knownHostsCommand needs OpenSSH 8.5. It prints the one line that is true; a
// file would be one more thing to write and to clean up.
func knownHostsCommand(line string) string { return "KnownHostsCommand /bin/echo " + line }

func block(b *strings.Builder, hosts string, lines ...string) {
	fmt.Fprintf(b, "Host %s\n", hosts)
	writeLines(b, "  ", lines)
}

func writeLines(b *strings.Builder, prefix string, lines []string) {
	for _, line := range lines {
		fmt.Fprintf(b, "%s%s\n", prefix, line)
	}
}

// consoleCommand is one command for a shell that opens the status console, with
// all that it needs on the command line. Nothing in it needs more quoting than
// single quotes: addresses, a port and base64.
func (at access) consoleCommand() string {
	words := []string{"ssh", "-p", at.port(), "-o", "'" + strings.Replace(knownHostsCommand(at.knownHosts()), " ", "=", 1) + "'"}
	for _, option := range shared {
		words = append(words, "-o", strings.Replace(option, " ", "=", 1))
	}
	return strings.Join(append(words, sshUser+"@"+at.endpoint.Addr().String()), " ")
}
