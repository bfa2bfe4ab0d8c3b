//go:build conformance

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/test/sshclient"
)

const (
	transferSize = 512 << 20
	distantSize  = 64 << 20
	oneWay       = 40 * time.Millisecond
	connects     = 10 // in each round
	idleRounds   = 3  // at most: each takes long, and they differ little
)

// idle is how many connections are open for each server. sshd has processes for each, so
// its memory grows evenly. bastiond needs many, because with few the garbage of the latest
// logins counts for much.
var idle = [2]int{40, 200}

// The client's options. Our ssh_config block has the ciphers of stockFast.
var (
	stock     = ""
	stockFast = "Ciphers aes128-gcm@openssh.com,aes256-gcm@openssh.com"
	aes128    = "Ciphers aes128-gcm@openssh.com"
)

// BenchmarkBesideSSHD compares bastiond with OpenSSH's sshd, which has its default settings.
// The stock client uses each of them in turn, so that other work on the machine slows both.
// A round is one measurement of each; -benchtime 9x makes nine. The table has the medians,
// and the ratio of bastiond's to sshd's.
func BenchmarkBesideSSHD(b *testing.B) {
	if os.Getuid() != 0 {
		b.Fatal("run it as root: sshd separates privileges, and has a mount namespace of its own")
	}
	dieWithParent(b)
	c := &comparison{b: b, client: sshclient.New(b)}
	c.key = c.client.AddKey("ed25519")
	for which := range c.servers {
		c.servers[which] = start[which](b, c.key)
	}
	c.transfer("the ssh_config block", stock, stockFast, 1.2, 1.5)
	c.transfer("no block", stock, stock, 0, 0)
	c.transfer("aes128-gcm on both", aes128, aes128, 0.8, 1.0)
	c.connect()
	c.memory()
	c.distance()
	if !b.Failed() {
		fmt.Print(c.table())
	}
}

// comparison runs the measurements.
type comparison struct {
	b       *testing.B
	servers [2]*server // sshd, bastiond
	client  *sshclient.Client
	key     string // of the client, as in a .pub file
	rows    []*row
}

// row is one line of the table: the values of each round.
type row struct {
	name, unit string
	wanted     float64 // the limit of the ratio; 0 if there is none
	less       bool    // less is better
	values     [2][]float64
}

// run adds a benchmark with a number of rounds at most. Its rows contain the latest call
// only: the first call of a benchmark has one round, which warms up.
func (c *comparison) run(name string, most int, rows []*row, round func(b *testing.B, which int) []float64) {
	c.b.Run(strings.ReplaceAll(name, " ", "-"), func(b *testing.B) {
		for _, r := range rows {
			r.values = [2][]float64{}
		}
		for i := range min(b.N, most) {
			for turn := range c.servers {
				which := (i + turn) % 2
				for j, value := range round(b, which) {
					rows[j].values[which] = append(rows[j].values[which], value)
				}
			}
		}
		for _, r := range rows {
			if !slices.Contains(c.rows, r) {
				c.rows = append(c.rows, r)
			}
		}
	})
}

func (c *comparison) transfer(name, forSSHD, forBastiond string, up, down float64) {
	options := [2]string{forSSHD, forBastiond}
	big := zeroFile(c.b, transferSize)
	for _, direction := range []struct {
		name   string
		wanted float64
		once   func(b *testing.B, s *server, option string) time.Duration
	}{
		{"upload", up, func(b *testing.B, s *server, option string) time.Duration {
			return c.upload(b, s, option, big, transferSize)
		}},
		{"download", down, c.download},
	} {
		title := direction.name + ", " + name
		rows := []*row{
			{name: title, unit: "MB/s", wanted: direction.wanted},
			{name: "CPU for " + title, unit: "s/GB", less: true},
		}
		c.run(title, math.MaxInt, rows, func(b *testing.B, which int) []float64 {
			s := c.servers[which]
			before := s.cpu(b)
			took := direction.once(b, s, options[which])
			used := s.cpu(b) - before
			return []float64{transferSize / took.Seconds() / 1e6, used.Seconds() / transferSize * 1e9}
		})
	}
}

// upload sends a file through a forward, and returns the time from the forward's connection
// to its end.
func (c *comparison) upload(b *testing.B, s *server, option, file string, size int64) (took time.Duration) {
	stdin, err := os.Open(file)
	if err != nil {
		b.Fatal(err)
	}
	defer stdin.Close()
	c.forward(b, s, option, stdin, func(conn net.Conn) error {
		began := time.Now()
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 256<<10))
		took = time.Since(began)
		if err == nil && n != size {
			err = fmt.Errorf("the destination has received %d bytes, want %d", n, size)
		}
		return err
	})
	return took
}

// download receives data through a forward, and returns the time from the forward's
// connection to the end of the client.
func (c *comparison) download(b *testing.B, s *server, option string) time.Duration {
	var began time.Time
	c.forward(b, s, option, nil, func(conn net.Conn) error {
		began = time.Now()
		block := make([]byte, 256<<10)
		for sent := 0; sent < transferSize; sent += len(block) {
			if _, err := conn.Write(block); err != nil {
				return err
			}
		}
		return nil
	})
	return time.Since(began)
}

// forward runs `ssh -W`, as -J does, to a destination whose connection is served by serve.
func (c *comparison) forward(b *testing.B, s *server, option string, stdin *os.File, serve func(net.Conn) error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var served error
	var serving sync.WaitGroup
	serving.Go(func() {
		conn, err := listener.Accept()
		if err != nil {
			served = err
			return
		}
		defer conn.Close()
		served = serve(conn)
	})
	cmd := c.ssh(s, option, "-W", listener.Addr().String(), "server")
	if stdin != nil {
		cmd.Stdin = stdin
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	err = cmd.Run()
	listener.Close()
	serving.Wait()
	if err = errors.Join(err, served); err != nil {
		b.Fatalf("%s: %v\n%s", cmd, err, stderr.String())
	}
}

// ssh returns an ssh command for a server, whose name is server.
func (c *comparison) ssh(s *server, option string, args ...string) *exec.Cmd {
	dir := c.b.TempDir()
	write := func(name, content string) (path string) {
		path = filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			c.b.Fatal(err)
		}
		return path
	}
	known := write("known_hosts", "server "+strings.Join(s.hostKeys, "\nserver ")+"\n")
	cmd := c.client.SSH(write("config", fmt.Sprintf("HostName 127.0.0.1\nPort %s\nUser bastion\n%s\n"+
		"HostKeyAlias server\nUserKnownHostsFile %s\nStrictHostKeyChecking yes\n", s.port, option, known)), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// connect measures the time from the start of ssh until the first byte of a destination
// comes, and the CPU time that each connection takes.
func (c *comparison) connect() {
	rows := []*row{
		{name: "time to connect", unit: "ms", wanted: 0.15, less: true},
		{name: "CPU for a connection", unit: "ms", wanted: 0.12, less: true},
	}
	c.run("connect", math.MaxInt, rows, func(b *testing.B, which int) []float64 {
		s := c.servers[which]
		before := s.cpu(b)
		var took []float64
		for range connects {
			began := time.Now()
			c.forward(b, s, stock, nil, func(conn net.Conn) error {
				_, err := conn.Write([]byte("x"))
				return err
			})
			took = append(took, milliseconds(time.Since(began)))
		}
		return []float64{median(took), milliseconds(s.cpu(b)-before) / connects}
	})
}

// memory measures the memory of idle connections to a new server.
func (c *comparison) memory() {
	rows := []*row{{name: "memory for an idle connection", unit: "kB", wanted: 0.05, less: true}}
	c.run("idle connections", idleRounds, rows, func(b *testing.B, which int) []float64 {
		s := start[which](b, c.key)
		before := s.memory(b)
		for range idle[which] {
			cmd := c.ssh(s, stock, "-N", "-o", "PermitLocalCommand=yes", "-o", "LocalCommand=echo up", "server")
			out, err := cmd.StdoutPipe()
			if err != nil {
				b.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
			if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
				b.Fatalf("%s: %v", cmd, err)
			}
		}
		return []float64{float64(s.memory(b)-before) / 1000 / float64(idle[which])}
	})
}

// distance measures uploads over a network with a long round trip.
func (c *comparison) distance() {
	file := zeroFile(c.b, distantSize)
	rows := []*row{{name: "upload over 80 ms", unit: "MB/s", wanted: 1}}
	var distant [2]*server
	for which, s := range c.servers {
		distant[which] = &server{port: delayed(c.b, s.port), hostKeys: s.hostKeys}
	}
	c.run("distance", math.MaxInt, rows, func(b *testing.B, which int) []float64 {
		return []float64{distantSize / c.upload(b, distant[which], aes128, file, distantSize).Seconds() / 1e6}
	})
}

// delayed returns a port that leads to another one, with a delay in each direction. Where the
// kernel has netem, it could do that, but some do not have it.
func delayed(b *testing.B, port string) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err != nil {
				client.Close()
				continue
			}
			running.Go(func() { delay(server, client) })
			running.Go(func() { delay(client, server) })
		}
	})
	b.Cleanup(func() { listener.Close(); running.Wait() })
	_, own, _ := net.SplitHostPort(listener.Addr().String())
	return own
}

// delay copies in one direction, and closes the destination at the end.
func delay(to, from net.Conn) {
	type chunk struct {
		data []byte
		due  time.Time
	}
	onTheWay := make(chan chunk, 4096)
	go func() {
		defer close(onTheWay)
		for {
			data := make([]byte, 64<<10)
			n, err := from.Read(data)
			if err != nil {
				return
			}
			onTheWay <- chunk{data[:n], time.Now().Add(oneWay)}
		}
	}()
	defer to.Close()
	for c := range onTheWay {
		time.Sleep(time.Until(c.due))
		if _, err := to.Write(c.data); err != nil {
			from.Close()
		}
	}
}

func zeroFile(b *testing.B, size int64) string {
	path := filepath.Join(b.TempDir(), "zeros")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		b.Fatal(err)
	}
	return path
}

func milliseconds(d time.Duration) float64 { return d.Seconds() * 1000 }

// quantile returns the value below which the given part of the values is.
func quantile(values []float64, part float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := part * float64(len(sorted)-1)
	low := int(at)
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

func median(values []float64) float64 { return quantile(values, 0.5) }

func (r *row) ratio() float64 { return median(r.values[1]) / median(r.values[0]) }

// rounds returns the ratio of each round.
func (r *row) rounds() (ratios []float64) {
	for i := range r.values[0] {
		ratios = append(ratios, r.values[1][i]/r.values[0][i])
	}
	return ratios
}

// table returns the rows as a Markdown table.
func (c *comparison) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s, %d cores. The ratio is that of the medians; the last column has the middle half of the rounds' ratios.\n\n", processor(), runtime.NumCPU())
	b.WriteString("| | sshd | bastiond | ratio | wanted | middle half |\n| --- | --: | --: | --: | --: | --: |\n")
	for _, r := range c.rows {
		wanted := "–"
		switch {
		case r.wanted > 0 && r.less:
			wanted = fmt.Sprintf("≤ %.2f", r.wanted)
		case r.wanted > 0:
			wanted = fmt.Sprintf("≥ %.2f", r.wanted)
		}
		fmt.Fprintf(&b, "| %s | %s %s | %s %s | %s | %s | %s to %s |\n", r.name, figures(median(r.values[0])), r.unit,
			figures(median(r.values[1])), r.unit, figures(r.ratio()), wanted, figures(quantile(r.rounds(), 0.25)), figures(quantile(r.rounds(), 0.75)))
	}
	return b.String()
}

// figures returns a number with three digits.
func figures(x float64) string {
	digits := 2 - int(math.Floor(math.Log10(math.Abs(cmp.Or(x, 1)))))
	return strconv.FormatFloat(x, 'f', max(digits, 0), 64)
}

// processor returns the name of this machine's processor.
func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.Trim(name, " \t:\n")
		}
	}
	return runtime.GOARCH
}
