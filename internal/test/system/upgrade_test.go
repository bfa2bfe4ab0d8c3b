//go:build conformance

package system

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/emulator"
	"github.com/bastion-on-demand/bastion/internal/test/freeport"
	"github.com/bastion-on-demand/bastion/internal/test/upgrade"
)

// upgradeTest is the state that the steps of TestUpgrade share.
type upgradeTest struct {
	*systemTest
	earlier, later version
	changed        []string // the parameters that the later version's deployment changes
	newSubnet      string
	newPort        uint16

	traffic *traffic // through alice's tunnel, during the whole test
	bob     *apiUser // gets another key
	dave    *apiUser // his start is announced, but RunTask was not called
	erin    *apiUser // her start is announced, and RunTask's response was lost
	frank   *apiUser // starts while functions of both versions run
	gina    *apiUser // starts after the port has changed
	ids     map[*apiUser]string
	webLink string // carol's second start link
	resume  func() // ends the pause of events
}

// The functions in two groups. A deployment replaces each function at another time.
var (
	requestFunctions = []string{"create", "describe", "extend", "destroy"}
	eventFunctions   = []string{"reaper", "observer", "slack"}
	allFunctions     = slices.Concat(requestFunctions, eventFunctions)
)

// TestUpgrade deploys the earlier version that the file EARLIER of package upgrade names,
// starts bastions, and deploys this version with other parameters. It checks what
// OPERATIONS.md promises about running bastions. It runs its steps in order.
func TestUpgrade(t *testing.T) {
	u := &upgradeTest{systemTest: &systemTest{startedAt: time.Now()}, ids: map[*apiUser]string{}}
	u.later, u.earlier = thisVersion(t, programs()...), earlierVersion(t)
	u.logf(t, "from commit %s", upgrade.EarlierCommit())
	u.deployment = startDeployment(t, u.earlier, "QuotaTotal", "20")
	u.targetHost = privateHost(t)
	u.newPort = uint16(freeport.Port(t))
	subnet, err := u.fargate.moto.ec2(t.Context(), "CreateSubnet", "VpcId", u.fargate.resources.vpc, "CidrBlock", "10.7.9.0/24")
	if err != nil {
		t.Fatal(err)
	}
	u.newSubnet = subnet.Subnet
	u.changed = []string{
		"AllowedDestinations", privateNetworks, "IdleTime", "20m", "DefaultLifetime", "30m", "LongestLifetime", "2h",
		"QuotaPerOwner", "2", "QuotaTotal", "19", "SubnetIds", u.newSubnet, "UseSpot", "true", "ResourceTags", operatorTag,
	}
	user := func(name, address string) *apiUser {
		return &apiUser{deployment: u.deployment, user: name, sourceIP: address}
	}
	u.alice, u.bob, u.robot = user(role+"alice", "127.0.0.1"), user("bob", "127.0.0.2"), user("robot", "127.0.0.3")
	u.dave, u.erin, u.frank = user("dave", "127.0.0.4"), user("erin", "127.0.0.9"), user("frank", "127.0.0.6")
	u.runSteps(t, []step{
		{"the earlier version starts bastions", u.earlierStarts},
		{"the earlier version starts a bastion from Slack and sends another start link", u.earlierStartsFromSlack},
		{"functions of both versions run: one starts, the others converge", u.bothVersionsRun},
		{"the update fails and is rolled back", u.rollBack},
		{"the earlier version announces two starts, and its functions end", u.announce},
		{"update with other parameters", u.updateAll},
		{"this version finishes the starts without a second task", u.announcedStartsFinish},
		{"running bastions keep what they had", u.runningBastionsStay},
		{"extend: the new values reach the running bastion", u.extendRunning},
		{"move, and replace a key", u.moveAndReplaceKey},
		{"an old task reads a newer lease", u.oldTaskReadsNewerLease},
		{"the next task has the new image, subnet and provider", u.nextTaskIsNew},
		{"an expired bastion is reaped", u.expiredIsReaped},
		{"Slack: buttons, links and messages of the earlier version work", u.slackContinues},
		{"update the SSH port and the names of owners", u.updatePortAndOwners},
		{"drain", u.drain},
		{"close everything", u.closeEverything},
	})
}

// earlierVersion returns the compiled earlier version.
func earlierVersion(t *testing.T) version {
	t.Helper()
	printed, err := emulator.Script("earlier")
	if err != nil {
		t.Fatal(err)
	}
	folder := strings.TrimSpace(string(printed))
	transformed, err := emulator.Transform(filepath.Join(folder, "template.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return version{filepath.Join(folder, "bin"), transformed}
}

// The stored items that the tests of packages awscloud and slack read must be those of the
// earlier version.
func TestStoredItemsAreThoseOfTheEarlierVersion(t *testing.T) {
	source := filepath.Dir(earlierVersion(t).programs)
	for golden, frozen := range map[string]string{
		"internal/awscloud/testdata/items": "internal/awscloud/testdata/earlier",
		"internal/slack/testdata/stored":   "internal/slack/testdata/earlier",
	} {
		want, got := readFolder(t, filepath.Join(source, golden)), readFolder(t, filepath.Join("..", "..", "..", frozen))
		if len(want) == 0 || len(want) != len(got) {
			t.Errorf("%s has %d files, %s of commit %s has %d", frozen, len(got), golden, upgrade.EarlierCommit(), len(want))
		}
		for name, content := range want {
			if !bytes.Equal(got[name], content) {
				t.Errorf("%s/%s differs from commit %s", frozen, name, upgrade.EarlierCommit())
			}
		}
	}
}

func readFolder(t *testing.T, folder string) map[string][]byte {
	t.Helper()
	files, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	contents := map[string][]byte{}
	for _, file := range files {
		if contents[file.Name()], err = os.ReadFile(filepath.Join(folder, file.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return contents
}

// post requests a bastion with the user's key, and does not wait until it is ready.
func (u *upgradeTest) post(t *testing.T, p *apiUser) {
	t.Helper()
	p.generateKey(t)
	u.ids[p] = p.expect(t, 201, "", "--data-binary", p.publicKeyArgument(), "/bastions").ID
}

// connect waits until the user's bastion is ready and connects with ssh.
func (u *upgradeTest) connect(t *testing.T, p *apiUser) apiResponse {
	t.Helper()
	ready := p.expect(t, 200, "ready", "--header", waitHeader, "/bastions/"+u.ids[p])
	p.saveSSHConfig(t, ready.ID)
	p.checkConnects(t, ready.ID)
	return ready
}

// patch extends the user's bastion and waits until it is ready again.
func (u *upgradeTest) patch(t *testing.T, p *apiUser, ttl string) apiResponse {
	t.Helper()
	return p.expect(t, 200, "ready", "--request", "PATCH", "--header", "Content-Type: application/json", "--header", waitHeader,
		"--data", `{"ttl":"`+ttl+`"}`, "/bastions/"+u.ids[p])
}

// stored returns the record and the lease of the user's bastion.
func (u *upgradeTest) stored(t *testing.T, p *apiUser) (bastion.Record, bastion.Lease) {
	t.Helper()
	rec, err := u.ports.Store.Fetch(t.Context(), u.ids[p])
	if err != nil {
		t.Fatal(err)
	}
	if rec.Attempt.TaskID == "" {
		return rec, bastion.Lease{}
	}
	item, err := u.ports.Leases.Fetch(t.Context(), rec.Attempt.TaskID)
	if err != nil {
		t.Fatal(err)
	}
	return rec, item.Lease
}

// checkVersion checks the version of the program that the bastion's only task runs.
func (u *upgradeTest) checkVersion(t *testing.T, p *apiUser, want version) {
	t.Helper()
	if got := u.task(t, u.ids[p]).definition.program; got != filepath.Join(want.programs, "bastiond") {
		t.Errorf("the task of %s runs %s", p.user, got)
	}
}

// tasksOf returns how many tasks of the user's bastion were ever started.
func (u *upgradeTest) tasksOf(p *apiUser) (count int) {
	for _, task := range u.fargate.tasks() {
		if task.startedBy == "bastion/"+u.ids[p] {
			count++
		}
	}
	return count
}

// checkDestination checks whether the user's bastion allows a destination.
func (u *upgradeTest) checkDestination(t *testing.T, p *apiUser, address string, allowed bool) {
	t.Helper()
	reply, err := p.ssh(t, "-W", address, p.hostAlias).CombinedOutput()
	if refused := strings.Contains(string(reply), "administratively prohibited"); refused == allowed {
		t.Fatalf("ssh -W %s printed %s: %v; want it allowed: %t", address, reply, err, allowed)
	}
}

// elsewhere returns the address of a host in otherNetwork.
func (u *upgradeTest) elsewhere() string {
	return strings.Replace(u.targetHost, "127.99.", "127.98.", 1)
}

func (u *upgradeTest) earlierStarts(t *testing.T) {
	for _, p := range []*apiUser{u.alice, u.bob, u.robot} {
		u.post(t, p)
	}
	for _, p := range []*apiUser{u.alice, u.bob, u.robot} {
		u.connect(t, p)
		u.checkVersion(t, p, u.earlier)
	}
	u.bastionID = u.ids[u.alice]
	if err := u.task(t, u.ids[u.robot]).signal(syscall.SIGSTOP); err != nil { // it cannot end itself
		t.Fatal(err)
	}
	u.tunnel = u.bob.openTunnel(t, u.targetHost)
	u.tunnel.checkEcho(t, "through the earlier version")
	u.traffic = startTraffic(t, u.alice.openTunnel(t, u.targetHost))
	u.checkDestination(t, u.alice, u.elsewhere(), false)
}

func (u *upgradeTest) earlierStartsFromSlack(t *testing.T) {
	u.slackSendsStartLink(t)
	if status, page := u.carol.pressStart(t); status != 303 {
		t.Fatalf("the button returned %d\n%s", status, page)
	}
	reply, _ := u.slack.sendCommand(t, u.carol.userID, "up for 30m name web")
	u.webLink = reply.button(t, "open").URL
	ready := u.slack.waitForDirectMessage(t, u.carol.userID, "Bastion default is ready\n")
	u.carol.bastionID = ready.button(t, "extend").Value
}

// bothVersionsRun lets create of this version start a bastion while the reaper and the
// observer are of the earlier version.
func (u *upgradeTest) bothVersionsRun(t *testing.T) {
	u.update(t, u.later, requestFunctions, u.changed...)
	resume := u.events.pause(t) // or the earlier reaper or observer could begin the attempt
	u.post(t, u.frank)
	u.frank.expect(t, 200, "ready", "--request", "POST", "--header", waitHeader, "/bastions")
	resume()
	u.connect(t, u.frank)
	u.checkVersion(t, u.frank, u.later)
	before, _ := u.stored(t, u.frank)
	u.updateRecord(t, u.ids[u.frank], func(rec *bastion.Record) { rec.DueAt = time.Now().UTC() })
	eventually(t, "the earlier reaper converges the bastion", func() bool {
		rec, _ := u.stored(t, u.frank)
		return rec.Version > before.Version+1
	})
	u.frank.expect(t, 200, "ready", "--header", waitHeader, "/bastions/"+u.ids[u.frank])
	for _, name := range eventFunctions {
		if log := u.functions[name].Log.String(); strings.Contains(log, "converge failed") {
			t.Errorf("a converge of %s failed:\n%s", name, log)
		}
	}
}

// rollBack updates to the earlier version and the earlier parameters, as CloudFormation
// does if an update fails. The earlier version reads what this version has stored, with
// fields that it does not know, and extends this version's task.
func (u *upgradeTest) rollBack(t *testing.T) {
	u.addUnknownFields(t, u.frank)
	u.update(t, u.earlier, requestFunctions, "QuotaTotal", "20")
	u.connect(t, u.frank)
	if extended := u.patch(t, u.frank, "100m"); time.Until(extended.Deadline) < 95*time.Minute {
		t.Fatalf("after the extension, it is %s", extended.Body)
	}
	u.checkVersion(t, u.frank, u.later)
	if n := u.tasksOf(u.frank); n != 1 {
		t.Errorf("frank's bastion had %d tasks, want 1", n)
	}
	u.checkUnknownFields(t, u.frank)
}

// announce lets two starts of the earlier version end after the attempt is stored: RunTask
// is not called for dave, and its response is lost for erin. No events are delivered until
// this version is deployed.
func (u *upgradeTest) announce(t *testing.T) {
	u.resume = u.events.pause(t)
	u.proxy.setECSFault(func(action string, _ ecsCall, _ bool) bool { return action == "RunTask" })
	u.announceStart(t, u.dave)
	down := false
	u.proxy.setECSFault(func(action string, _ ecsCall, after bool) bool {
		down = down || action == "RunTask" && after
		return down
	})
	u.announceStart(t, u.erin)
	for p, tasks := range map[*apiUser]int{u.dave: 0, u.erin: 1} {
		rec, _ := u.stored(t, p)
		if rec.Attempt.Number != 1 || rec.Attempt.TaskID != "" || u.tasksOf(p) != tasks {
			t.Fatalf("%s: the attempt is %+v, and there are %d tasks; want it announced, and %d tasks", p.user, rec.Attempt, u.tasksOf(p), tasks)
		}
	}
	u.updateRecord(t, u.ids[u.robot], func(rec *bastion.Record) { rec.Intent.Deadline, rec.DueAt = rec.CreatedAt, time.Now().UTC() })
}

// announceStart requests a bastion, and repeats the request until the attempt is stored.
// The first request ends before EC2 shows the new group.
func (u *upgradeTest) announceStart(t *testing.T, p *apiUser) {
	t.Helper()
	u.post(t, p)
	eventually(t, "the attempt is stored", func() bool {
		p.expect(t, 200, "starting", "--request", "POST", "/bastions")
		rec, _ := u.stored(t, p)
		return rec.Attempt.Number == 1
	})
}

func (u *upgradeTest) updateAll(t *testing.T) {
	u.update(t, u.later, allFunctions, u.changed...)
	u.proxy.setECSFault(nil)
	u.resume()
}

func (u *upgradeTest) announcedStartsFinish(t *testing.T) {
	for _, p := range []*apiUser{u.dave, u.erin} {
		announced, _ := u.stored(t, p)
		u.connect(t, p)
		u.checkVersion(t, p, u.earlier) // the attempt names the task definition
		ready, _ := u.stored(t, p)
		sent := u.proxy.sentRunTask(t, u.task(t, u.ids[p]).arn)
		if n := u.tasksOf(p); n != 1 || ready.Attempt.Number != 1 || sent.Subnet != announced.Attempt.Subnet || sent.Tagged {
			t.Errorf("%s: %d tasks, attempt %+v, the task was started with %+v", p.user, n, ready.Attempt, sent)
		}
	}
}

func (u *upgradeTest) runningBastionsStay(t *testing.T) {
	u.traffic.check(t)
	seen := u.connect(t, u.alice)
	u.checkVersion(t, u.alice, u.earlier)
	rec, lease := u.stored(t, u.alice)
	if want := rec.CreatedAt.Add(8 * time.Hour); rec.LatestDeadline.Sub(want).Abs() > time.Second || time.Until(seen.Deadline) > time.Hour || lease.IdleTimeout != 15*time.Minute {
		t.Errorf("the record is %+v, the lease %+v; want the earlier lifetimes and idle time", rec, lease)
	}
	u.checkDestination(t, u.alice, u.elsewhere(), false)
	u.frank.expect(t, 422, "", "--request", "POST", "--header", "Content-Type: application/json", "--data", `{"ttl":"3h","name":"long"}`, "/bastions")
	second := u.frank.expect(t, 201, "", "--request", "POST", "--header", "Content-Type: application/json", "--data", `{"name":"second"}`, "/bastions") // the new quota
	u.frank.expect(t, 202, "", "--request", "DELETE", "/bastions/"+second.ID)
	if left := time.Until(second.Deadline); left > 31*time.Minute {
		t.Errorf("a new bastion ends in %s, want the new default", left)
	}
}

func (u *upgradeTest) extendRunning(t *testing.T) {
	extended := u.patch(t, u.alice, "3h") // more than LongestLifetime now, and less than when the bastion was created
	if left := time.Until(extended.Deadline); left < 175*time.Minute {
		t.Errorf("it ends in %s", left)
	}
	if _, lease := u.stored(t, u.alice); lease.IdleTimeout != 20*time.Minute {
		t.Errorf("after the extension, the lease is %+v", lease)
	}
	u.checkDestination(t, u.alice, u.elsewhere(), true)
	reply, err := u.alice.console(t, "extend 4h")
	if err != nil || !strings.Contains(reply, "deadline") {
		t.Errorf("the console replied %q: %v", reply, err)
	}
	u.checkVersion(t, u.alice, u.earlier)
	u.traffic.check(t)
}

func (u *upgradeTest) moveAndReplaceKey(t *testing.T) {
	was := *u.alice
	u.alice.sourceIP = "127.0.0.11"
	if moved := u.alice.expect(t, 200, "ready", "--request", "POST", "--header", waitHeader, "/bastions"); moved.ID != u.ids[u.alice] || moved.Source != "127.0.0.11/32" {
		t.Fatalf("the request from another address returned %s", moved.Body)
	}
	u.alice.checkConnects(t, "127.0.0.11")
	was.checkRefused(t)
	u.traffic.check(t)

	was = *u.bob
	u.bob.generateKey(t)
	u.bob.expect(t, 200, "ready", "--data-binary", u.bob.onlyKeyArgument(t), "--header", waitHeader, "/bastions")
	u.tunnel.checkCut(t)
	was.checkRefused(t)
	u.connect(t, u.bob)
	u.checkVersion(t, u.bob, u.earlier)
}

// nextTaskIsNew kills a task of the earlier version.
func (u *upgradeTest) nextTaskIsNew(t *testing.T) {
	before := u.bob.expect(t, 200, "ready", "/bastions/"+u.ids[u.bob])
	if err := u.task(t, u.ids[u.bob]).signal(os.Kill); err != nil {
		t.Fatal(err)
	}
	u.waitUntil(t, "the bastion is ready with another host key", u.bob, u.ids[u.bob], func(a apiResponse) bool {
		return a.State == "ready" && a.HostKey != before.HostKey
	})
	u.connect(t, u.bob)
	u.checkVersion(t, u.bob, u.later)
	if sent := u.proxy.sentRunTask(t, u.task(t, u.ids[u.bob]).arn); sent != (sentTask{u.newSubnet, "FARGATE_SPOT", true}) {
		t.Errorf("the task was started with %+v", sent)
	}
}

func (u *upgradeTest) expiredIsReaped(t *testing.T) {
	u.expiringID = u.ids[u.robot]
	u.frozenBastionIsReaped(t)
}

func (u *upgradeTest) slackContinues(t *testing.T) {
	at := u.slack.pressButton(t, u.carol.userID, u.slack.waitForDirectMessage(t, u.carol.userID, "Bastion default is ready\n").button(t, "extend"))
	u.slack.waitForMessage(t, at, "Bastion default extended")
	eventually(t, "the open page has the configuration", func() bool {
		_, page, _ := u.carol.browse(t, u.carol.statusPage)
		return strings.Contains(page, `href="?download"`)
	})
	u.carol.startLink = u.webLink
	if status, page := u.carol.pressStart(t); status != 303 {
		t.Fatalf("the button of the earlier version's link returned %d\n%s", status, page)
	}
	u.slack.waitForDirectMessage(t, u.carol.userID, "Bastion web is ready\n")
	reply, _ := u.slack.sendCommand(t, u.carol.userID, "down default")
	if !strings.Contains(reply.text, "Closing bastion default") {
		t.Fatalf("down: the reply is\n%s", reply.text)
	}
	u.slack.waitForDirectMessages(t, u.carol.userID, "Bastion default is closed\n", 2) // the receipt, and the status message of the earlier version
}

// updatePortAndOwners changes parameters that OPERATIONS.md warns of.
func (u *upgradeTest) updatePortAndOwners(t *testing.T) {
	u.tunnel = u.frank.openTunnel(t, u.targetHost)
	u.tunnel.checkEcho(t, "before the port changes")
	u.update(t, u.later, allFunctions, append(u.changed, "SshPort", fmt.Sprint(u.newPort), "TrustedSessionRoles", "")...)
	u.frank.expect(t, 200, "", "--request", "PATCH", "--header", "Content-Type: application/json", "--data", `{"ttl":"110m"}`, "/bastions/"+u.ids[u.frank])
	rec, _ := u.stored(t, u.frank)
	eventually(t, "the group admits the new port only", func() bool {
		rules, err := u.fargate.moto.rulesOf(t.Context(), rec.Group.ID)
		return err == nil && len(rules) == 1 && rules[0].From == int(u.newPort)
	})
	u.frank.checkRefused(t)
	u.tunnel.checkEcho(t, "an open connection stays open")

	u.gina = &apiUser{deployment: u.deployment, user: "gina", sourceIP: "127.0.0.12"}
	u.post(t, u.gina)
	if ready := u.connect(t, u.gina); !strings.Contains(ready.Body, fmt.Sprint(u.newPort)) {
		t.Errorf("the new bastion is %s", ready.Body)
	}

	u.alice.expect(t, 404, "", "/bastions/"+u.ids[u.alice]) // her owner has another name now
	admin := &apiUser{deployment: u.deployment, user: operator, sourceIP: "127.0.0.5"}
	admin.expect(t, 200, "ready", "/bastions/"+u.ids[u.alice])
	u.traffic.check(t)
}

// drain sets Draining: a POST is refused, and a PATCH is not.
func (u *upgradeTest) drain(t *testing.T) {
	u.update(t, u.later, []string{"create", "extend"}, append(u.changed, "Draining", "true")...)
	if refused := u.gina.expect(t, 503, "", "--request", "POST", "/bastions"); refused.Code != "draining" {
		t.Errorf("the POST returned %s", refused.Body)
	}
	u.patch(t, u.gina, "50m")
	u.gina.checkConnects(t, u.ids[u.gina])
}

func (u *upgradeTest) closeEverything(t *testing.T) {
	admin := &apiUser{deployment: u.deployment, user: operator, sourceIP: "127.0.0.5"}
	sent := u.traffic.stop(t)
	u.logf(t, "  %d lines went through alice's tunnel", sent)
	for _, open := range admin.expect(t, 200, "", "/bastions").Bastions {
		admin.expect(t, 202, "", "--request", "DELETE", "/bastions/"+open.ID)
	}
	for p, id := range u.ids {
		if p != u.robot {
			u.waitClosed(t, admin, id, "closed")
		}
	}
	eventually(t, "no bastion is left", func() bool { return len(admin.expect(t, 200, "", "/bastions").Bastions) == 0 })
	rec, err := u.ports.Store.Fetch(t.Context(), u.ids[u.alice])
	used := slices.ContainsFunc(rec.Receipt.Destinations, func(d bastion.Destination) bool { return d.Name == u.targetHost })
	if err != nil || !used {
		t.Errorf("alice's receipt does not name %s: %+v, %v", u.targetHost, rec.Receipt, err)
	}
	if failed := u.events.deadLetters(); len(failed) != 0 {
		t.Errorf("dead letters: %s", strings.Join(failed, "\n"))
	}
	if faults := u.fargate.recordedFaults(); len(faults) != 0 {
		t.Errorf("faults of the test's Fargate: %s", strings.Join(faults, "\n"))
	}
	for _, wrong := range u.recorder.Wrong() {
		t.Error(wrong)
	}
	leases, err := u.ports.Leases.List(t.Context())
	if err != nil || len(leases) != 0 {
		t.Errorf("leases are left: %+v, %v", leases, err)
	}
}

// sentTask has parameters of a RunTask.
type sentTask struct {
	Subnet, Provider string
	Tagged           bool // with the tag CostCenter of the operator
}

// sentRunTask returns the parameters of the RunTask that started a task.
func (p *motoProxy) sentRunTask(t *testing.T, arn string) sentTask {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, started := range p.startedTasks {
		if started.task.arn != arn {
			continue
		}
		var request struct {
			Tags                     []struct{ Key string }
			CapacityProviderStrategy []struct{ CapacityProvider string }
			NetworkConfiguration     struct {
				AwsvpcConfiguration struct{ Subnets []string }
			}
		}
		if err := json.Unmarshal(started.request, &request); err != nil {
			t.Fatal(err)
		}
		return sentTask{
			Subnet: request.NetworkConfiguration.AwsvpcConfiguration.Subnets[0], Provider: request.CapacityProviderStrategy[0].CapacityProvider,
			Tagged: slices.ContainsFunc(request.Tags, func(tag struct{ Key string }) bool { return tag.Key == "CostCenter" }),
		}
	}
	t.Fatalf("no RunTask has started %s", arn)
	return sentTask{}
}

// traffic sends lines through a tunnel until it is stopped.
type traffic struct {
	tunnel *tunnel
	end    chan struct{}
	result chan error
	lines  int
}

// startTraffic sends a line through the tunnel every 200 ms, and reads it back.
func startTraffic(t *testing.T, through *tunnel) *traffic {
	t.Helper()
	through.checkEcho(t, "first line")
	c := &traffic{tunnel: through, end: make(chan struct{}), result: make(chan error, 1)}
	go func() { c.result <- c.run() }()
	t.Cleanup(func() { close(c.end) })
	return c
}

var errStopped = errors.New("stopped")

func (c *traffic) run() error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-c.end:
			return errStopped
		case <-tick.C:
		}
		line := fmt.Sprintf("line %d\n", c.lines)
		if _, err := c.tunnel.stdin.Write([]byte(line)); err != nil {
			return err
		}
		if got, err := c.tunnel.stdout.ReadString('\n'); err != nil || got != line {
			return fmt.Errorf("sent %q, got %q: %w", line, got, err)
		}
		c.lines++
	}
}

// check checks that the traffic still flows.
func (c *traffic) check(t *testing.T) {
	t.Helper()
	select {
	case err := <-c.result:
		t.Fatalf("the open tunnel has ended: %v", err)
	default:
	}
}

// stop stops the traffic and returns how many lines were sent.
func (c *traffic) stop(t *testing.T) int {
	t.Helper()
	c.end <- struct{}{}
	if err := <-c.result; !errors.Is(err, errStopped) {
		t.Fatalf("the open tunnel has ended: %v", err)
	}
	return c.lines
}
