//go:build conformance

package system

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	lambdatypes "github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/servicequotas"
	quotatypes "github.com/aws/aws-sdk-go-v2/service/servicequotas/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/deploy"
	"github.com/bastion-on-demand/bastion/internal/image"
)

// What the stack of the registry has.
const (
	codeBucket     = "way-in-registry-codebucket-1"
	bucketDomain   = codeBucket + ".s3." + region + ".amazonaws.com"
	repositoryName = "way-in-registry-registry-1"
	registryHost   = account + ".dkr.ecr." + region + ".amazonaws.com"
)

// deployer is the role of the person who runs make deploy.
const deployer = "Deployer/session"

// accountTest is an AWS account in the emulators, and a machine that runs make deploy.
type accountTest struct {
	*deployment
	version  version
	cloud    deploy.Cloud
	stacks   *cloudFormation
	registry string            // the address of the server that plays registryHost
	index    v1.ImageIndex     // once it is built
	compiled map[string][]byte // functions by the command that compiles them
	out      *watchedOutput
	command  string // that the first deployment printed
	refuse   bool   // API Gateway refuses signed requests
}

// newAccount starts the emulators with an account in which nothing is deployed.
func newAccount(t *testing.T) *accountTest {
	t.Helper()
	a := &accountTest{version: thisVersion(t, programs()...), compiled: map[string][]byte{}, out: &watchedOutput{}}
	a.deployment = prepareDeployment(t, a.version)
	moto := a.fargate.moto.url
	t.Setenv("AWS_CA_BUNDLE", "") // no server here has TLS
	for service, url := range map[string]string{
		"S3": moto, "ECR": moto, "IAM": moto, "STS": moto, "SSM": moto, "LAMBDA": a.services["lambda"],
	} {
		t.Setenv("AWS_ENDPOINT_URL_"+service, url)
	}
	var err error
	if a.cloud, err = deploy.Connect(t.Context(), region, newHTTPClient()); err != nil {
		t.Fatal(err)
	}
	objects := a.cloud.Objects.(*s3.Client)
	a.stacks = newCloudFormation(t, objects)
	a.stacks.create, a.stacks.update = a.createStack(t, objects), a.updateStack
	a.cloud.Stacks, a.cloud.Quotas = a.stacks, quotas{}
	a.cloud.EC2 = publicEC2{a.cloud.EC2.(*ec2.Client)}
	a.cloud.Functions = accountLambda{a.cloud.Functions.(*lambda.Client)}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(&strings.Builder{}, "", 0))))
	t.Cleanup(server.Close)
	a.registry = strings.TrimPrefix(server.URL, "http://")
	a.createNetwork(t)
	return a
}

// createNetwork makes the subnets public, and creates the role of ECS.
func (a *accountTest) createNetwork(t *testing.T) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	client, ctx, vpc := a.cloud.EC2.(publicEC2).Client, t.Context(), &a.fargate.resources.vpc
	gateway, err := client.CreateInternetGateway(ctx, &ec2.CreateInternetGatewayInput{})
	must(err)
	id := gateway.InternetGateway.InternetGatewayId
	_, err = client.AttachInternetGateway(ctx, &ec2.AttachInternetGatewayInput{InternetGatewayId: id, VpcId: vpc})
	must(err)
	tables, err := client.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{Filters: []ec2types.Filter{{Name: aws.String("vpc-id"), Values: []string{*vpc}}}})
	must(err)
	_, err = client.CreateRoute(ctx, &ec2.CreateRouteInput{RouteTableId: tables.RouteTables[0].RouteTableId, DestinationCidrBlock: aws.String("0.0.0.0/0"), GatewayId: id})
	must(err)
	_, err = a.cloud.IAM.(*iam.Client).CreateRole(ctx, &iam.CreateRoleInput{RoleName: aws.String("AWSServiceRoleForECS"), AssumeRolePolicyDocument: aws.String("{}")})
	must(err)
}

// createStack plays the creation of the two stacks.
func (a *accountTest) createStack(t *testing.T, objects *s3.Client) func(string, map[string]string) (map[string]string, map[string]string, error) {
	return func(name string, parameters map[string]string) (outputs, resources map[string]string, err error) {
		if name == "way-in" {
			a.start(t, a.version, pairs(parameters)...)
			outputs, resources = a.serviceStack(serve(t, signedGateway{a}))
			return outputs, resources, nil
		}
		_, err = objects.CreateBucket(t.Context(), &s3.CreateBucketInput{
			Bucket: aws.String(codeBucket), CreateBucketConfiguration: &s3types.CreateBucketConfiguration{LocationConstraint: region},
		})
		if err == nil {
			_, err = a.cloud.ECR.(*ecr.Client).CreateRepository(t.Context(), &ecr.CreateRepositoryInput{RepositoryName: aws.String(repositoryName)})
		}
		return map[string]string{"RepositoryUri": registryHost + "/" + repositoryName, "CodeBucketName": codeBucket, "CodeBucketDomain": bucketDomain},
			map[string]string{"Registry": repositoryName, "CodeBucket": codeBucket}, err
	}
}

func (a *accountTest) serviceStack(url string) (outputs, resources map[string]string) {
	outputs = map[string]string{"Url": url + "/bastions", "MemberGroupId": a.fargate.resources.memberGroup}
	resources = map[string]string{"Cluster": a.fargate.resources.cluster[strings.LastIndex(a.fargate.resources.cluster, "/")+1:]}
	for name := range functionNames {
		if name == withoutAlias(name) {
			resources[strings.ToUpper(name[:1])+name[1:]+"Function"] = name
		}
	}
	return outputs, resources
}

// updateStack plays an update that changes no running part.
func (a *accountTest) updateStack(name string, _ map[string]string) (outputs, resources map[string]string, err error) {
	s := a.stacks.stacks[name]
	return s.outputs, s.resources, nil
}

// pairs returns a map as a list of names and values.
func pairs(values map[string]string) (all []string) {
	for _, name := range slices.Sorted(maps.Keys(values)) {
		all = append(all, name, values[name])
	}
	return all
}

// signedGateway is API Gateway with the authorizer for IAM. It accepts requests of the
// deployer with a valid signature, and requests of curl as [gateway] does.
type signedGateway struct{ a *accountTest }

func (g signedGateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ") {
		body, err := io.ReadAll(r.Body)
		if err != nil || g.a.refuse || !signatureIsValid(r, body) {
			writeMessage(w, http.StatusForbidden, "Forbidden")
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		r.SetBasicAuth(deployer, "")
	}
	gateway{g.a.functions}.ServeHTTP(w, r)
}

// signature matches the header Authorization of a signed request.
var signature = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=` + accessKey + `/\d{8}/` + region + `/execute-api/aws4_request, ?SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})$`)

// signatureIsValid signs the received request again, with those of its headers that were
// signed, and compares. A signed header that was not sent makes the signature invalid.
func signatureIsValid(r *http.Request, body []byte) bool {
	signed := signature.FindStringSubmatch(r.Header.Get("Authorization"))
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || signed == nil {
		return false
	}
	again := httptest.NewRequest(r.Method, "http://"+r.Host+r.URL.RequestURI(), nil)
	for name := range strings.SplitSeq(signed[1], ";") {
		if values := r.Header.Values(name); len(values) > 0 {
			again.Header[http.CanonicalHeaderKey(name)] = values
		}
	}
	hash := sha256.Sum256(body)
	err = v4.NewSigner().SignHTTP(r.Context(), aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: accessKey}, again, hex.EncodeToString(hash[:]), "execute-api", region, at)
	expected := signature.FindStringSubmatch(again.Header.Get("Authorization"))
	return err == nil && expected != nil && expected[1] == signed[1] && expected[2] == signed[2]
}

// publicEC2 is EC2 with two calls that moto does not have.
type publicEC2 struct{ *ec2.Client }

func (publicEC2) DescribeVpcBlockPublicAccessOptions(context.Context, *ec2.DescribeVpcBlockPublicAccessOptionsInput, ...func(*ec2.Options)) (*ec2.DescribeVpcBlockPublicAccessOptionsOutput, error) {
	return &ec2.DescribeVpcBlockPublicAccessOptionsOutput{VpcBlockPublicAccessOptions: &ec2types.VpcBlockPublicAccessOptions{
		InternetGatewayBlockMode: ec2types.InternetGatewayBlockModeOff, ExclusionsAllowed: ec2types.VpcBlockPublicAccessExclusionsAllowedAllowed,
	}}, nil
}

func (publicEC2) DescribeVpcBlockPublicAccessExclusions(context.Context, *ec2.DescribeVpcBlockPublicAccessExclusionsInput, ...func(*ec2.Options)) (*ec2.DescribeVpcBlockPublicAccessExclusionsOutput, error) {
	return &ec2.DescribeVpcBlockPublicAccessExclusionsOutput{}, nil
}

// accountLambda is Lambda with a call that the test's Lambda does not have.
type accountLambda struct{ *lambda.Client }

func (accountLambda) GetAccountSettings(context.Context, *lambda.GetAccountSettingsInput, ...func(*lambda.Options)) (*lambda.GetAccountSettingsOutput, error) {
	return &lambda.GetAccountSettingsOutput{AccountLimit: &lambdatypes.AccountLimit{ConcurrentExecutions: 1000, UnreservedConcurrentExecutions: aws.Int32(1000)}}, nil
}

// quotas plays Service Quotas: moto has no quotas of Fargate and Lambda.
type quotas struct{}

func (quotas) GetServiceQuota(context.Context, *servicequotas.GetServiceQuotaInput, ...func(*servicequotas.Options)) (*servicequotas.GetServiceQuotaOutput, error) {
	return &servicequotas.GetServiceQuotaOutput{Quota: &quotatypes.ServiceQuota{Value: aws.Float64(1000)}}, nil
}

func (quotas) GetAWSDefaultServiceQuota(context.Context, *servicequotas.GetAWSDefaultServiceQuotaInput, ...func(*servicequotas.Options)) (*servicequotas.GetAWSDefaultServiceQuotaOutput, error) {
	return &servicequotas.GetAWSDefaultServiceQuotaOutput{Quota: &quotatypes.ServiceQuota{Value: aws.Float64(1000)}}, nil
}

// Build implements deploy.Images. Only the first call compiles.
func (a *accountTest) Build(ctx context.Context) (string, error) {
	var err error
	if a.index == nil {
		if a.index, err = image.Build(ctx, image.Source{Module: moduleFolder, Package: "./cmd/bastiond"}, image.Progress{W: a.out}); err != nil {
			return "", err
		}
	}
	digest, err := a.index.Digest()
	return digest.String(), err
}

// Run implements deploy.Runner for make build-FUNCTION ARTIFACTS_DIR=FOLDER. Only the first
// call for each function compiles.
func (a *accountTest) Run(ctx context.Context, program string, args ...string) error {
	folder, _ := strings.CutPrefix(args[len(args)-1], "ARTIFACTS_DIR=")
	bootstrap, target := filepath.Join(folder, "bootstrap"), fmt.Sprint(program, args[:len(args)-1])
	if code, known := a.compiled[target]; known {
		return os.WriteFile(bootstrap, code, 0o755)
	}
	if err := (deploy.Processes{Folder: moduleFolder, Out: a.out}).Run(ctx, program, args...); err != nil {
		return err
	}
	code, err := os.ReadFile(bootstrap)
	a.compiled[target] = code
	return err
}

// Push pushes to a registry, and tells moto's ECR of the image: moto has no registry that
// images can be pushed to.
func (a *accountTest) Push(ctx context.Context, repository string) (string, error) {
	reference, err := image.Registry{Repository: repository, Keychain: authn.NewMultiKeychain(), Transport: a}.Push(ctx, a.index, image.Progress{W: a.out})
	if err != nil {
		return "", err
	}
	manifest, err := a.index.RawManifest()
	if err != nil {
		return "", err
	}
	kind, err := a.index.MediaType()
	if err != nil {
		return "", err
	}
	_, digest, _ := strings.Cut(reference, "@")
	_, err = a.cloud.ECR.(*ecr.Client).PutImage(ctx, &ecr.PutImageInput{
		RepositoryName: aws.String(repositoryName), ImageManifest: aws.String(string(manifest)), ImageManifestMediaType: aws.String(string(kind)),
		ImageDigest: &digest, ImageTag: aws.String("digest-" + strings.TrimPrefix(digest, "sha256:")),
	})
	if err != nil && !strings.Contains(err.Error(), "ImageAlreadyExistsException") {
		return "", err
	}
	return reference, nil
}

// RoundTrip sends a request for registryHost to the registry in this process.
func (a *accountTest) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Host != registryHost && r.URL.Host != a.registry { // the registry's responses have its own address
		return nil, fmt.Errorf("%s is not the registry", r.URL.Host)
	}
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = "http", a.registry
	return newHTTPClient().Transport.RoundTrip(r)
}

// moduleFolder is the folder with go.mod.
var moduleFolder = filepath.Join("..", "..", "..")

// watchedOutput keeps what is printed, and calls a function when a text is printed.
type watchedOutput struct {
	bytes.Buffer
	text string
	do   func()
}

func (w *watchedOutput) Write(p []byte) (int, error) {
	if w.do != nil && bytes.Contains(p, []byte(w.text)) {
		w.do()
	}
	return w.Buffer.Write(p)
}

// deploy runs make deploy, and returns what it printed. Parameters are changes of those
// that the test has.
func (a *accountTest) deploy(ctx context.Context, change func(*deploy.Deployment)) (string, error) {
	a.out.Reset()
	r := a.fargate.resources
	d := &deploy.Deployment{
		Settings: deploy.Settings{Stack: "way-in", VPC: r.vpc, Subnets: r.subnets[:], Module: moduleFolder, Parameters: map[string]string{
			"SshPort": fmt.Sprint(a.fargate.port), "AllowedDestinations": privateNetwork, "QuotaPerOwner": "1", "QuotaTotal": "2", "WarningTime": warn,
			"SlackTeams": team, "SlackChannels": channel, "SlackSigningSecretParameter": secretName, "SlackBotTokenParameter": tokenName, "ResourceTags": operatorTag,
		}},
		Cloud: a.cloud, Images: a, Runner: a, HTTP: newHTTPClient(),
		Dial: new(net.Dialer).DialContext, LookPath: exec.LookPath, Now: time.Now, Progress: image.Progress{W: a.out},
	}
	if change != nil {
		change(d)
	}
	err := d.Deploy(ctx)
	return a.out.String(), err
}

// trialOwner is the owner of the bastions that make deploy tries.
const trialOwner = "iam:" + account + ":AIDA0000TRIAL0OF0MAKE0DEPLOY0000"

// TestMakeDeploy runs the whole of make deploy: into an empty account, again while a person
// has a bastion, and with a failure in each part that can fail.
func TestMakeDeploy(t *testing.T) {
	a := newAccount(t)
	began := time.Now()
	for _, step := range []struct {
		title string
		run   func(*testing.T)
	}{
		{"a failed creation of the service", a.creationFails},
		{"deploy into the account", a.firstDeployment},
		{"the printed command", a.printedCommand},
		{"a person's bastion stays as it is", a.secondDeployment},
		{"Ctrl-C while the trial's bastion runs", a.interrupted},
		{"another host key", a.wrongHostKey},
		{"the console does not open", a.noConsole},
		{"API Gateway refuses the request", a.signedRequestIsRefused},
		{"the quota is reached", a.quotaIsReached},
	} {
		t.Logf("%5.1fs  %s", time.Since(began).Seconds(), step.title)
		step.run(t)
		if t.Failed() {
			return
		}
	}
	t.Logf("%5.1fs  done", time.Since(began).Seconds())
}

// creationFails lets the stack of the service fail.
func (a *accountTest) creationFails(t *testing.T) {
	create := a.stacks.create
	a.stacks.create = func(name string, parameters map[string]string) (outputs, resources map[string]string, err error) {
		if name == "way-in" {
			return nil, nil, errors.New("the table's name is taken")
		}
		return create(name, parameters)
	}
	a.stacks.id = stackID + "-failed"
	defer func() { a.stacks.create, a.stacks.id = create, stackID }()
	out, err := a.deploy(t.Context(), nil)
	expectError(t, out, err, "deploy the service, stack way-in", "RecordsTable (AWS::DynamoDB::Table): the table's name is taken", "rerun make deploy")
	if changes := a.stacks.takeChanges(); !slices.Equal(changes, []string{"CREATE way-in-registry", "CREATE way-in"}) {
		t.Errorf("the changes are %q", changes)
	}
}

func expectError(t *testing.T, out string, err error, want ...string) {
	t.Helper()
	for _, text := range want {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q is missing in the error: %v\n%s", text, err, out)
		}
	}
}

// stepTime matches the last line of each step.
var stepTime = regexp.MustCompile(`(?m)^\[(\d+)/(\d+)\] (.+)\n(?:.*\n)*?      done in (\d+\.\d)s$`)

func (a *accountTest) firstDeployment(t *testing.T) {
	out, err := a.deploy(t.Context(), nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if changes := a.stacks.takeChanges(); !slices.Equal(changes, []string{"DELETE way-in", "CREATE way-in"}) {
		t.Errorf("the changes are %q", changes)
	}
	steps := stepTime.FindAllStringSubmatch(out, -1)
	if len(steps) != 9 {
		t.Errorf("%d steps print their time\n%s", len(steps), out)
	}
	for _, step := range steps {
		t.Logf("       %s/%s %s: %s s", step[1], step[2], step[3], step[4])
	}
	_, trial, _ := strings.Cut(out, "try a bastion\n")
	t.Logf("the trial:\n%s", trial)
	for _, want := range []string{
		"GET " + a.stacks.stacks["way-in"].outputs["Url"] + " returned 200.",
		" for the address 127.0.0.1\nrequested ", "ready at 127.65.0.1:", "opened the console with SSH", "\ndeleted: ",
		a.fargate.resources.memberGroup, "--aws-sigv4 aws:amz:" + region + ":execute-api",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	// The reaper may have deleted the security group before the trial looks.
	gone := strings.Contains(out, "nothing is left of it in AWS: ")
	waits := strings.Contains(out, "its task has stopped, and its security group admits no address: ") && strings.Contains(out, "The reaper deletes the security group")
	if gone == waits {
		t.Errorf("the end of the trial is not reported, or in two ways\n%s", out)
	}
	a.checkNothingIsLeft(t, 1)
	_, a.command, _ = strings.Cut(out, "then request a bastion:\n")
}

// printedCommand runs the command that make deploy has printed, as a person does: with bash,
// with curl, and with credentials with and without a session token.
func (a *accountTest) printedCommand(t *testing.T) {
	home := t.TempDir()
	if err := os.Mkdir(filepath.Join(home, ".ssh"), 0o700); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(home, ".ssh", "id_ed25519")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	run := func(secret, token string) string {
		cmd := exec.CommandContext(t.Context(), "bash", "-c", `aws() { echo "export AWS_ACCESS_KEY_ID=$ID AWS_SECRET_ACCESS_KEY=$SECRET"; }`+"\n"+a.command)
		cmd.Env = append(os.Environ(), "HOME="+home, "ID="+accessKey, "SECRET="+secret, "AWS_SESSION_TOKEN="+token)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("bash -c %s: %v\n%s", a.command, err, out)
		}
		return string(out)
	}
	for _, token := range []string{"", "a/b+c="} {
		out := run(accessKey, token)
		for giveUp := time.Now().Add(waitLimit); strings.HasPrefix(out, "# bastion default: starting") && time.Now().Before(giveUp); {
			out = run(accessKey, token)
		}
		if !strings.HasPrefix(out, "# bastion default: ready") || !strings.Contains(out, "Host bastion-default\n") {
			t.Errorf("token %q: the command\n%s\nprinted\n%s", token, a.command, out)
		}
		if out := run("another", token); !strings.Contains(out, "Forbidden") {
			t.Errorf("token %q: with another secret, the command printed\n%s", token, out)
		}
	}
	a.asDeployer(t).expect(t, 202, "", "--request", "DELETE", "/bastions")
}

// asDeployer returns the person who deploys.
func (a *accountTest) asDeployer(t *testing.T) *apiUser {
	t.Helper()
	user := a.person("")
	user.user = deployer
	return user
}

// checkNothingIsLeft waits until no bastion of a trial is in the table, and until all tasks
// have stopped but those of persons. So many tasks must have been started.
func (a *accountTest) checkNothingIsLeft(t *testing.T, tasks int, persons ...string) {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for giveUp := time.Now().Add(waitLimit); ; <-tick.C {
		left, err := a.ports.Store.ListByOwner(t.Context(), trialOwner)
		if err != nil {
			t.Fatal(err)
		}
		var running []string
		for _, task := range a.fargate.tasks() {
			if now := task.currentState(); now.status != "STOPPED" && !slices.Contains(persons, task.startedBy) {
				running = append(running, fmt.Sprint(task.startedBy, " ", now.status))
			}
		}
		if len(left) == 0 && len(running) == 0 {
			break
		}
		if time.Now().After(giveUp) {
			t.Fatalf("the trial leaves %+v and the tasks %q", left, running)
		}
	}
	if all := a.fargate.tasks(); len(all) != tasks {
		t.Errorf("%d tasks were started, want %d", len(all), tasks)
	}
}

// secondDeployment deploys again while alice has a bastion with her key.
func (a *accountTest) secondDeployment(t *testing.T) {
	alice := a.person("alice")
	alice.generateKey(t)
	created := alice.expect(t, 201, "ready", "--data-binary", alice.publicKeyArgument(), "--header", waitHeader, "/bastions")
	before, key := a.stored(t, created)
	out, err := a.deploy(t.Context(), nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if changes := a.stacks.takeChanges(); len(changes) > 0 || !strings.Contains(out, "the stack way-in is up to date") {
		t.Errorf("the changes are %q\n%s", changes, out)
	}
	a.checkNothingIsLeft(t, 4, "bastion/"+created.ID)
	after, keyAfter := a.stored(t, created)
	if !reflect.DeepEqual(before.Intent, after.Intent) || before.Attempt.TaskID != after.Attempt.TaskID || before.LatestDeadline != after.LatestDeadline || key != keyAfter || key == "" {
		t.Errorf("the record of alice was\n%+v with the key %s, and is\n%+v with the key %s", before, key, after, keyAfter)
	}
	if again := alice.expect(t, 200, "ready", "/bastions/"+created.ID); again.HostKey != created.HostKey || again.Owner != created.Owner {
		t.Errorf("alice has %s", again.Body)
	}
	// The owner of the trial has a key of its own, which is not alice's.
	if tried, err := a.ports.Store.RememberedKey(t.Context(), trialOwner); err != nil || tried == key {
		t.Errorf("the key of the trial is %s, %v", tried, err)
	}
	// Nobody but an admin sees the trial's bastions; here the deployer, who ran it.
	if seen := a.person("session").expect(t, 200, "", "/bastions"); len(seen.Bastions) != 0 {
		t.Errorf("a person sees %s", seen.Body)
	}
	alice.expect(t, 202, "closing", "--request", "DELETE", "/bastions/"+created.ID)
}

// person returns a user of IAM Identity Center.
func (a *accountTest) person(name string) *apiUser {
	d := *a.deployment
	d.url = strings.TrimSuffix(a.stacks.stacks["way-in"].outputs["Url"], "/bastions")
	return &apiUser{deployment: &d, user: role + name, sourceIP: "127.0.0.1"}
}

func (a *accountTest) stored(t *testing.T, of apiResponse) (bastion.Record, bastion.Key) {
	t.Helper()
	rec, err := a.ports.Store.Fetch(t.Context(), of.ID)
	if err != nil {
		t.Fatal(err)
	}
	key, err := a.ports.Store.RememberedKey(t.Context(), of.Owner)
	if err != nil {
		t.Fatal(err)
	}
	return rec, key
}

func (a *accountTest) interrupted(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	a.out.text, a.out.do = "ready at ", interrupt
	defer func() { a.out.do = nil }()
	out, err := a.deploy(ctx, nil)
	expectError(t, out, err, "interrupted in step 9 of 9, try a bastion", "rerun make deploy")
	if !regexp.MustCompile(`\ndeleted [a-z2-7]{16}; the reaper removes the rest\n`).MatchString(out) {
		t.Errorf("the output is\n%s", out)
	}
	a.checkNothingIsLeft(t, 5)
}

// wrongHostKey lets another server answer at the address: the one of another bastion.
func (a *accountTest) wrongHostKey(t *testing.T) {
	carol := a.person("carol")
	carol.generateKey(t)
	other := carol.expect(t, 201, "ready", "--data-binary", carol.publicKeyArgument(), "--header", waitHeader, "/bastions")
	out, err := a.deploy(t.Context(), func(d *deploy.Deployment) {
		dial := d.Dial
		d.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dial(ctx, network, net.JoinHostPort(other.Host, fmt.Sprint(a.fargate.port)))
		}
	})
	expectError(t, out, err, "try a bastion", "wrong host key: the server has SHA256:", "another server may have answered")
	a.checkNothingIsLeft(t, 7, "bastion/"+other.ID)
	carol.expect(t, 202, "closing", "--request", "DELETE", "/bastions/"+other.ID)
}

// noConsole lets the connection end as soon as it is open.
func (a *accountTest) noConsole(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	defer func() { l.Close(); <-done }()
	out, err := a.deploy(t.Context(), func(d *deploy.Deployment) {
		dial := d.Dial
		d.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return dial(ctx, network, l.Addr().String())
		}
	})
	expectError(t, out, err, "try a bastion", "open the console at 127.65.0.", "ssh: handshake failed")
	a.checkNothingIsLeft(t, 8)
}

func (a *accountTest) signedRequestIsRefused(t *testing.T) {
	a.refuse = true
	defer func() { a.refuse = false }()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// The request is repeated for a minute, because a new API may not be everywhere yet.
	a.out.text, a.out.do = "403 Forbidden, not 200", cancel
	defer func() { a.out.do = nil }()
	out, err := a.deploy(ctx, nil)
	expectError(t, out, err, "interrupted in step 8 of 9, send a test request")
	if !strings.Contains(out, "execute-api:Invoke") {
		t.Errorf("the output is\n%s", out)
	}
	a.checkNothingIsLeft(t, 8)
}

// quotaIsReached deploys while two bastions are open, which is the most.
func (a *accountTest) quotaIsReached(t *testing.T) {
	for _, name := range []string{"dave", "erin"} {
		person := a.person(name)
		person.generateKey(t)
		person.expect(t, 201, "", "--data-binary", person.publicKeyArgument(), "/bastions")
	}
	out, err := a.deploy(t.Context(), nil)
	if err != nil || !strings.Contains(out, "NOT TRIED, because the service refuses a bastion now: All 2 bastions of this stack are in use.") || !strings.Contains(out, "(quota_total)") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, name := range []string{"dave", "erin"} {
		a.person(name).expect(t, 202, "", "--request", "DELETE", "/bastions")
	}
}
