package sshd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"
)

// refused is a channel that is not opened: the reason code and the sentence for
// the client, and the cause, which is for the log.
type refused struct {
	reason  ssh.RejectionReason
	message string
	cause   error
}

func (r *refused) Error() string {
	if r.cause != nil {
		return fmt.Sprintf("%s: %v", r.message, r.cause)
	}
	return r.message
}

func (r *refused) Unwrap() error { return r.cause }

func prohibited(format string, args ...any) *refused {
	return &refused{reason: ssh.Prohibited, message: fmt.Sprintf(format, args...)}
}

// maxAddresses is how many addresses of one name are tried.
const maxAddresses = 8

// destination is where a client asked to be connected to, and which addresses
// that may mean. Nothing but these is ever dialled.
type destination struct {
	name    string // host:port, as asked for
	addrs   []netip.AddrPort
	dropped []netip.Addr // the host's addresses that the policy forbids
}

// findDestination resolves the host, at most once, and judges every address. It
// answers *refused.
func findDestination(ctx context.Context, resolver Resolver, policy Policy, host string, port uint32) (destination, error) {
	d := destination{name: net.JoinHostPort(clip(host), strconv.FormatUint(uint64(port), 10))}
	if port == 0 || port > 65535 {
		return d, prohibited("%d is not a TCP port.", port)
	}
	addrs, err := hostAddresses(ctx, resolver, host)
	if err != nil {
		return d, err
	}
	for _, addr := range addrs {
		addr = addr.Unmap()
		if err := policy.Judge(addr); err != nil {
			d.dropped = append(d.dropped, addr)
			continue
		}
		if len(d.addrs) < maxAddresses {
			d.addrs = append(d.addrs, netip.AddrPortFrom(addr, uint16(port)))
		}
	}
	if len(d.addrs) == 0 {
		return d, refuseDestination(host, policy.Judge(addrs[0]))
	}
	return d, nil
}

// refuseDestination words a refusal by the first of a host's addresses.
func refuseDestination(host string, first error) *refused {
	if _, literal := literalAddr(host); literal {
		return prohibited("This bastion does not connect there: %v.", first)
	}
	return prohibited("This bastion does not connect to %s: %v.", host, first)
}

// hostAddresses is the address that host is, or those it resolves to; at least
// one. A host that is neither an address nor a name is not shown to the
// resolver: resolvers read 127.1, 0x7f.1 and 2130706433 as 127.0.0.1.
func hostAddresses(ctx context.Context, resolver Resolver, host string) ([]netip.Addr, error) {
	if addr, ok := literalAddr(host); ok {
		return []netip.Addr{addr}, nil
	}
	if !isName(host) {
		return nil, prohibited("%q is neither a host name nor an address as addresses are written in full.", clip(host))
	}
	addrs, err := resolver.LookupNetIP(ctx, "ip", host)
	if err == nil && len(addrs) == 0 {
		err = errors.New("no addresses")
	}
	if err != nil {
		return nil, &refused{ssh.ConnectionFailed,
			fmt.Sprintf("The bastion found no address for %s; check the name.", host),
			fmt.Errorf("resolve %s: %w", host, err)}
	}
	return addrs, nil
}

// literalAddr reads an address, in brackets or not.
func literalAddr(host string) (netip.Addr, bool) {
	if inner, found := strings.CutPrefix(host, "["); found {
		if inner, found = strings.CutSuffix(inner, "]"); found {
			host = inner
		}
	}
	addr, err := netip.ParseAddr(host)
	return addr, err == nil
}

// isName reports whether host is a DNS name (underscores are in use) whose last
// label is no number: no such name exists, but resolvers take it for an address.
func isName(host string) bool {
	host = strings.TrimSuffix(host, ".")
	labels := strings.Split(host, ".")
	if len(host) > 253 {
		return false
	}
	for _, label := range labels {
		if len(label) == 0 || len(label) > 63 || strings.Trim(strings.ToLower(label), "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return !isNumber(labels[len(labels)-1])
}

func isNumber(label string) bool {
	if strings.Trim(label, "0123456789") == "" {
		return true
	}
	digits, hex := strings.CutPrefix(strings.ToLower(label), "0x")
	return hex && strings.Trim(digits, "0123456789abcdef") == ""
}

// plainDialError is why a connection failed, in words that say nothing about
// the bastion itself.
func plainDialError(err error) string {
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case errors.As(err, &errno) && errno != syscall.ETIMEDOUT:
		return errno.Error()
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout(), errno == syscall.ETIMEDOUT:
		return "no answer in time"
	}
	return "it failed"
}
