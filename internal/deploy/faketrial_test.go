package deploy

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

const (
	fakeID   = "abcdefghijklmnop"
	fakeHost = "198.51.100.3"
)

// fakeTrial is the service, ECS, EC2 and a bastion for the owner of the trial. Each read of a
// starting bastion takes it to the next stage, and each read of its task to the next status.
// The zero value works as it should.
type fakeTrial struct {
	refuse     int    // the status of POST, if it is refused
	code       string // of the refusal
	loseReply  bool   // POST has its effect, and its response is lost
	repeated   bool   // POST is sent twice, as after an error of the network
	failure    api.Failure
	stuck      bool // it never becomes ready
	endsEarly  bastion.EndReason
	refusal    api.Failure // of a step while it starts
	delayed    bool        // its end is delayed
	taskStays  bool        // the task does not stop
	ruleStays  bool        // the group's rule is not revoked
	noTask     bool        // ECS does not list it
	allRemoved bool        // the document says that nothing is left
	afterPost  func()      // called when POST has had its effect

	dialErr    error
	dialsLeft  int  // dials that fail with dialErr; -1: all
	silent     bool // the server accepts the connection and says nothing
	hostKey    bool // the server has another host key than the document
	noShell    bool // the server refuses shells
	exitStatus byte
	status     string // what the console prints instead of its status

	posts   int
	request map[string]string
	caller  string // the owner
	event   events.APIGatewayV2HTTPRequest
	doc     api.Bastion
	deleted int // DELETE requests
	reads   int // of the starting bastion
	dials   int
	logins  int
	ending  int // reads of the task that ends
}

var fakeStages = []string{"security group", "capacity", "image", "network", "host key"}

// serve serves the functions' events.
func (f *fakeTrial) serve(owner string, event events.APIGatewayV2HTTPRequest) (int, string) {
	f.caller = owner
	path := event.RawPath
	switch event.RequestContext.HTTP.Method {
	case http.MethodPost:
		return f.create(owner, event)
	case http.MethodDelete:
		if path != "/bastions/"+f.doc.ID {
			return 404, "{}"
		}
		f.deleted++
		if f.doc.State != bastion.Failed {
			f.doc.State, f.doc.Ended = bastion.Closing, &api.Ended{Reason: bastion.EndClosed}
		}
		return 202, f.document()
	}
	if path == "/bastions" {
		list := api.List{}
		if f.doc.ID != "" {
			list.Bastions = []api.Bastion{{ID: "zzzz", Name: "trial-other", Owner: owner}, f.doc}
		}
		body, _ := json.Marshal(list)
		return 200, string(body)
	}
	if path != "/bastions/"+f.doc.ID {
		return 404, `{"code":"not_found"}`
	}
	f.next()
	return 200, f.document()
}

func (f *fakeTrial) document() string {
	body, _ := json.Marshal(f.doc)
	return string(body)
}

func (f *fakeTrial) create(owner string, event events.APIGatewayV2HTTPRequest) (int, string) {
	f.posts++
	f.event = event
	if f.refuse != 0 {
		body, _ := json.Marshal(api.NewProblem(f.refuse, bastion.Code(f.code), "The service refuses it.", "r"))
		return f.refuse, string(body)
	}
	f.request = map[string]string{}
	if err := json.Unmarshal([]byte(event.Body), &f.request); err != nil {
		return 400, err.Error()
	}
	source := event.RequestContext.HTTP.SourceIP + "/32"
	ttl, err := bastion.ParseTTL(f.request["ttl"])
	if err != nil {
		return 400, err.Error()
	}
	f.doc = api.Bastion{
		ID: fakeID, Name: f.request["name"], Owner: owner, State: bastion.Starting, Stage: fakeStages[0], Source: source,
		Deadline: time.Now().Add(ttl),
	}
	f.reads, f.ending = 0, 0
	if f.afterPost != nil {
		f.afterPost()
	}
	if f.loseReply {
		return 502, `{"message":"lost"}`
	}
	if f.repeated {
		return 200, f.document()
	}
	return 201, f.document()
}

// next takes a starting bastion to its next state.
func (f *fakeTrial) next() {
	if f.doc.State == bastion.Closing && f.allRemoved {
		f.doc.State = bastion.Closed
	}
	if f.doc.State == bastion.Closing && f.delayed {
		f.doc.Stage = "delayed"
	}
	if f.doc.State != bastion.Starting {
		return
	}
	f.reads++
	late := time.Now().After(f.doc.Deadline.Add(time.Minute))
	switch {
	case f.refusal.Code != "":
		f.doc.Failure = &f.refusal
	case f.reads < len(fakeStages) || f.stuck && f.endsEarly == "" || f.stuck && !late:
	case f.failure.Code != "":
		f.doc.State, f.doc.Stage, f.doc.Failure = bastion.Failed, "", &f.failure
		return
	case f.endsEarly != "":
		f.doc.State, f.doc.Stage, f.doc.Ended = bastion.Closed, "", &api.Ended{Reason: f.endsEarly}
		return
	default:
		f.doc.State, f.doc.Stage = bastion.Ready, ""
		f.doc.Host, f.doc.Port, f.doc.User = fakeHost, 2222, "bastion"
		for _, key := range []ssh.Signer{hostKey(3), hostKey(1)} { // each of them is right
			f.doc.HostKeys = append(f.doc.HostKeys, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey()))))
		}
		f.doc.HostKey = f.doc.HostKeys[0]
		return
	}
	f.doc.Stage = fakeStages[min(f.reads, len(fakeStages)-1)]
}

// hostKey returns one of several host keys.
func hostKey(number byte) ssh.Signer {
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = number
	signer, err := ssh.NewSignerFromKey(ed25519.NewKeyFromSeed(seed))
	if err != nil {
		panic(err)
	}
	return signer
}

// Dial connects to the bastion.
func (w *world) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if err := w.call("Dial %s %s", network, address); err != nil {
		return nil, err
	}
	f := &w.trial
	f.dials++
	if f.dialsLeft != 0 {
		f.dialsLeft--
		if errors.Is(f.dialErr, context.DeadlineExceeded) {
			<-ctx.Done() // a packet that gets no answer
			return nil, ctx.Err()
		}
		return nil, f.dialErr
	}
	near, far := net.Pipe()
	if !f.silent {
		go f.serveSSH(buffered(far))
	}
	return buffered(near), nil
}

// bufferedConn does not wait until the peer reads: both ends of SSH first write.
type bufferedConn struct {
	net.Conn
	queue chan []byte
	done  chan struct{}
	close func() error
}

func buffered(c net.Conn) net.Conn {
	b := &bufferedConn{Conn: c, queue: make(chan []byte, 1000), done: make(chan struct{})}
	b.close = sync.OnceValue(func() error {
		close(b.done)
		return c.Close()
	})
	go func() {
		for {
			select {
			case p := <-b.queue:
				if _, err := c.Write(p); err != nil {
					return
				}
			case <-b.done:
				return
			}
		}
	}()
	return b
}

func (b *bufferedConn) Write(p []byte) (int, error) {
	select {
	case b.queue <- slices.Clone(p):
		return len(p), nil
	case <-b.done:
		return 0, io.ErrClosedPipe
	}
}

func (b *bufferedConn) Close() error { return b.close() }

// serveSSH is the bastion's server for one connection.
func (f *fakeTrial) serveSSH(conn net.Conn) {
	defer conn.Close()
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(f.request["public_key"]))
	if err != nil {
		return
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(c ssh.ConnMetadata, offered ssh.PublicKey) (*ssh.Permissions, error) {
		if c.User() == "bastion" && string(offered.Marshal()) == string(key.Marshal()) {
			return nil, nil
		}
		return nil, errors.New("refused")
	}}
	config.AddHostKey(hostKey(1))
	if f.hostKey {
		config.AddHostKey(hostKey(2)) // replaces the first
	}
	server, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	f.logins++
	go ssh.DiscardRequests(requests)
	for channel := range channels {
		f.serveSession(channel)
	}
	_ = server.Wait()
}

func (f *fakeTrial) serveSession(offered ssh.NewChannel) {
	channel, requests, err := offered.Accept()
	if err != nil {
		return
	}
	defer channel.Close()
	for request := range requests {
		ok := request.Type == "shell" && !f.noShell
		_ = request.Reply(ok, nil)
		if !ok {
			continue
		}
		text := f.status
		if text == "" {
			text = fmt.Sprintf("bastion      %s (%s)\nowner        %s\nstate        ready\nkey          %s (yours), 1 connection, from %s\n\nCommands: help, exit.\n",
				f.doc.Name, f.doc.ID, f.doc.Owner, strings.Join(f.doc.Keys, " "), strings.TrimSuffix(f.doc.Source, "/32"))
		}
		_, _ = io.WriteString(channel, text)
		line, _ := io.ReadAll(channel)
		if string(line) == "exit\n" {
			_, _ = channel.SendRequest("exit-status", false, []byte{0, 0, 0, f.exitStatus})
		}
		return
	}
}

const fakeTask = "arn:aws:ecs:eu-west-1:111122223333:task/cluster-1/0123456789abcdef"

func (f *fakeTrial) taskARNs(cluster, startedBy string, desired ecstypes.DesiredStatus) []string {
	ended := f.doc.State != bastion.Starting && f.doc.State != bastion.Ready
	if cluster != "cluster-1" || startedBy != "bastion/"+fakeID || f.noTask || ended != (desired == ecstypes.DesiredStatusStopped) {
		return nil
	}
	return []string{fakeTask}
}

func (f *fakeTrial) describeTasks(arns []string) (all []ecstypes.Task) {
	statuses := []string{"DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED"}
	for _, arn := range arns {
		status := statuses[min(f.ending, len(statuses)-1)]
		if f.taskStays {
			status = "RUNNING"
		}
		all = append(all, ecstypes.Task{TaskArn: &arn, LastStatus: &status})
	}
	f.ending++
	return all
}

func (f *fakeTrial) groups(name string) []ec2types.SecurityGroup {
	if name != "bastion-"+fakeID || f.doc.ID == "" {
		return nil
	}
	group := ec2types.SecurityGroup{GroupId: aws.String("sg-trial")}
	if f.deleted == 0 || f.ruleStays {
		group.IpPermissions = []ec2types.IpPermission{{IpRanges: []ec2types.IpRange{{CidrIp: &f.doc.Source}}}}
	}
	return []ec2types.SecurityGroup{group}
}
