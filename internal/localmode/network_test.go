package localmode

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// testNetwork returns a network that records the calls of the system's resolver and
// dialer instead of making them.
func testNetwork(t *testing.T, allow ...string) (*network, *[]string) {
	t.Helper()
	rules, wrong := bastion.ParseDestinationRules(strings.Join(allow, ","))
	n, err := newNetwork(rules, nil)
	if err := errors.Join(append(wrong, err)...); err != nil {
		t.Fatal(err)
	}
	var calls []string
	n.lookup = func(_ context.Context, family, name string) ([]netip.Addr, error) {
		calls = append(calls, "lookup "+family+" "+name)
		return []netip.Addr{netip.MustParseAddr("192.168.7.7")}, nil
	}
	n.dial = func(_ context.Context, family, address string) (net.Conn, error) {
		calls = append(calls, "dial "+family+" "+address)
		near, far := net.Pipe()
		_ = far.Close()
		return near, nil
	}
	return n, &calls
}

func TestOnlyThePrivateNameResolvesWithoutAllow(t *testing.T) {
	n, calls := testNetwork(t)
	network := n.from("b1")
	for _, name := range []string{"private.internal", "PRIVATE.Internal", "private.internal."} {
		addrs, err := network.LookupNetIP(t.Context(), "ip", name)
		if err != nil || len(addrs) != 1 || addrs[0] != n.address {
			t.Errorf("lookup %s: %v, %v", name, addrs, err)
		}
	}
	for _, name := range []string{"localhost", "example.com", "internal", "x.private.internal"} {
		_, err := network.LookupNetIP(t.Context(), "ip", name)
		var notFound *net.DNSError
		if !errors.As(err, &notFound) || !notFound.IsNotFound {
			t.Errorf("lookup %s: %v, want no such host", name, err)
		}
	}
	if len(*calls) != 0 {
		t.Errorf("calls of the system: %v", *calls)
	}
}

func TestNamesReachTheSystemResolverWithAllow(t *testing.T) {
	n, calls := testNetwork(t, "192.168.7.0/24")
	addrs, err := n.from("b1").LookupNetIP(t.Context(), "ip4", "nas.lan")
	if err != nil || len(addrs) != 1 {
		t.Fatalf("%v, %v", addrs, err)
	}
	if got := strings.Join(*calls, ";"); got != "lookup ip4 nas.lan" {
		t.Errorf("calls %q", got)
	}
}

func TestRealAddressesAreDialledOnlyIfAllowed(t *testing.T) {
	n, calls := testNetwork(t, "192.168.7.0/24", "127.0.0.0/8", "192.168.8.0/24:22")
	network := n.from("b1")
	for _, to := range []string{"192.168.7.9:5432", "127.0.0.1:80", "[::ffff:192.168.7.9]:80", "192.168.8.9:22"} {
		conn, err := network.Dial(t.Context(), netip.MustParseAddrPort(to))
		if err != nil {
			t.Errorf("dial %s: %v", to, err)
			continue
		}
		_ = conn.Close()
	}
	if got, want := strings.Join(*calls, ";"), "dial tcp 192.168.7.9:5432;dial tcp 127.0.0.1:80;dial tcp 192.168.7.9:80;dial tcp 192.168.8.9:22"; got != want {
		t.Errorf("calls %q, want %q", got, want)
	}
	*calls = nil
	for _, to := range []string{"192.168.8.9:5432", "10.1.2.3:22", "[fd00::1]:22", "[::1]:22"} {
		_, err := network.Dial(t.Context(), netip.MustParseAddrPort(to))
		if err == nil || !strings.Contains(err.Error(), "no route to host: only private.internal is in the local network (use --allow CIDR for other destinations)") {
			t.Errorf("dial %s: %v", to, err)
		}
	}
	_, err := network.Dial(t.Context(), netip.AddrPortFrom(n.address, 443))
	if err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("dial port 443 of the private host: %v", err)
	}
	if len(*calls) != 0 {
		t.Errorf("calls of the system: %v", *calls)
	}
}

func TestPrivateHostAvoidsAddressesOfThisMachine(t *testing.T) {
	var taken []netip.Addr
	for second := range 256 {
		n, err := newNetwork(nil, taken)
		if err != nil || slices.Contains(taken, n.address) {
			t.Fatalf("private host at %v, %v; taken: %v", n, err, taken)
		}
		taken = append(taken, netip.AddrFrom4([4]byte{10, byte(second), 0, 10}))
	}
	if _, err := newNetwork(nil, taken); err == nil {
		t.Error("no error although every address is taken")
	}
}

// A client that closes its sending side still gets the whole response.
func TestPipesCloseEachDirectionAlone(t *testing.T) {
	n, _ := testNetwork(t)
	listener := n.listen(7)
	defer listener.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			served <- err
			return
		}
		defer conn.Close()
		sent, err := io.ReadAll(conn) // returns only at the client's end of file
		if err == nil {
			_, err = conn.Write(append([]byte("got "), sent...))
		}
		served <- err
	}()
	conn, err := n.from("b1").Dial(t.Context(), netip.AddrPortFrom(n.address, 7))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "all"); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	reply, err := io.ReadAll(conn)
	if err != nil || string(reply) != "got all" {
		t.Errorf("reply %q, %v", reply, err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if got := conn.RemoteAddr().String(); got != netip.AddrPortFrom(n.address, 7).String() {
		t.Errorf("remote address %s", got)
	}
}

func TestDialEndsWithContextOrListener(t *testing.T) {
	n, _ := testNetwork(t)
	listener := n.listen(7)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.from("b1").Dial(ctx, netip.AddrPortFrom(n.address, 7)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled dial: %v", err)
	}
	_ = listener.Close()
	if _, err := n.from("b1").Dial(t.Context(), netip.AddrPortFrom(n.address, 7)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("dial of a closed listener: %v", err)
	}
	if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept on a closed listener: %v", err)
	}
}
