package api

import "strings"

// KnownHostsPrefix begins a comment of an ssh_config file that holds a line for a
// known_hosts file.
const KnownHostsPrefix = "# known_hosts: "

// withoutCommand is the text of WithoutKnownHostsCommand for a file named FILE.conf.
//
// OpenSSH has KnownHostsCommand since 8.5 (https://www.openssh.com/txt/release-8.5).
// Windows has neither /usr/bin/env nor printf, and Termux has both in another folder.
// asyncssh, paramiko and JSch read files like FILE.plain.conf and FILE.known_hosts, and
// ignore KnownHostsCommand. In Windows PowerShell, > would write UTF-16.
const withoutCommand = `# Skip these comments unless you use OpenSSH before 8.5, OpenSSH for Windows, Termux or a
# library such as asyncssh. These cannot use KnownHostsCommand: in the folder of FILE.conf,
# run two commands, which write the host keys to a file, and then use FILE.plain.conf in
# place of FILE.conf. In a shell:
#   sed -n 's/^# known_hosts: //p' FILE.conf > FILE.known_hosts
#   sed 's/^ *KnownHostsCommand .*/  UserKnownHostsFile FILE.known_hosts/' FILE.conf > FILE.plain.conf
# In Windows PowerShell:
#   (Get-Content FILE.conf) -match '^# known_hosts: ' -replace '^# known_hosts: ' | Set-Content -Encoding ascii FILE.known_hosts
#   (Get-Content FILE.conf) -replace '^ *KnownHostsCommand .*', '  UserKnownHostsFile FILE.known_hosts' | Set-Content -Encoding ascii FILE.plain.conf
`

// WithoutKnownHostsCommand returns comments for an ssh_config file that is saved as
// NAME.conf. They tell people whose SSH client cannot use the option KnownHostsCommand
// how to write the host keys to a file.
func WithoutKnownHostsCommand(name string) string {
	return strings.ReplaceAll(withoutCommand, "FILE", name)
}
