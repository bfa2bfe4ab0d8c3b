//go:build conformance

package awscloud

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/test/cloudtest"
	"github.com/bastion-on-demand/bastion/internal/test/emulator"
	"github.com/bastion-on-demand/bastion/internal/test/privilege"
)

// moto is a moto process that has the resources of a stack, but no bastions yet.
type moto struct {
	ec2    *ec2.Client  // of the test; may make any call
	ecs    *ecs.Client  // of the test; may make any call
	client *http.Client // of the adapters; fails the test on a call that no role grants
	sdk    aws.Config
	stack  Stack
	subnet string
	family string
}

// startMoto starts moto. The environment points the SDK to it, as in the functions.
func startMoto(t *testing.T) *moto {
	t.Helper()
	url := emulator.Moto(t)
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL_EC2": url, "AWS_ENDPOINT_URL_ECS": url,
		"AWS_REGION": "eu-central-1", "AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "test",
	} {
		t.Setenv(name, value)
	}
	sdk, err := config.LoadDefaultConfig(t.Context())
	must(t, err)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: wholeBodies{transport}, Timeout: 20 * time.Second} // the machine can be busy
	m := &moto{
		sdk: sdk,
		ec2: NewEC2(sdk, unpaced(), func(o *ec2.Options) { o.HTTPClient = client }),
		ecs: NewECS(sdk, unpaced(), func(o *ecs.Options) { o.HTTPClient = client }),
	}
	leaveTasksRunning(t, client, url)
	m.deploy(t)
	m.client = &http.Client{Timeout: client.Timeout, Transport: wholeBodies{allowed{
		RoundTripper: transport, t: t, granted: ofFunctions(t),
		in: privilege.Deployment{StackID: m.stack.ID, Cluster: m.stack.Cluster, VPC: m.stack.VPC},
	}}}
	return m
}

// leaveTasksRunning stops moto from advancing a task's state at each DescribeTasks.
func leaveTasksRunning(t *testing.T, client *http.Client, url string) {
	t.Helper()
	never := `{"model_name": "ecs::task", "transition": {"progression": "manual", "times": 1000000000}}`
	response, err := client.Post(url+"/moto-api/state-manager/set-transition", "application/json", strings.NewReader(never))
	must(t, err)
	must(t, response.Body.Close())
	if response.StatusCode >= http.StatusMultipleChoices {
		t.Fatalf("set-transition: %s", response.Status)
	}
}

// deploy creates the resources of the template that the adapters need. Tasks have
// private addresses only, as all interfaces of moto.
func (m *moto) deploy(t *testing.T) {
	t.Helper()
	vpc, err := m.ec2.CreateVpc(t.Context(), &ec2.CreateVpcInput{CidrBlock: aws.String("10.7.0.0/16")})
	must(t, err)
	_, err = m.ec2.ModifyVpcAttribute(t.Context(), &ec2.ModifyVpcAttributeInput{ // moto's RunTask requires it
		VpcId: vpc.Vpc.VpcId, EnableDnsHostnames: &ec2types.AttributeBooleanValue{Value: aws.Bool(true)}})
	must(t, err)
	subnet, err := m.ec2.CreateSubnet(t.Context(), &ec2.CreateSubnetInput{VpcId: vpc.Vpc.VpcId, CidrBlock: aws.String("10.7.0.0/20")})
	must(t, err)
	member, err := m.ec2.CreateSecurityGroup(t.Context(), &ec2.CreateSecurityGroupInput{
		GroupName: aws.String("members"), Description: aws.String("members"), VpcId: vpc.Vpc.VpcId})
	must(t, err)
	cluster, err := m.ecs.CreateCluster(t.Context(), &ecs.CreateClusterInput{ClusterName: aws.String("bastions")})
	must(t, err)
	definition, err := m.ecs.RegisterTaskDefinition(t.Context(), &ecs.RegisterTaskDefinitionInput{
		Family: aws.String("bastion"), NetworkMode: types.NetworkModeAwsvpc, Cpu: aws.String("256"), Memory: aws.String("512"),
		RequiresCompatibilities: []types.Compatibility{types.CompatibilityFargate},
		ContainerDefinitions: []types.ContainerDefinition{{
			Name: aws.String("bastiond"), Image: aws.String("bastiond"), Essential: aws.Bool(true), Memory: aws.Int32(512)}},
	})
	must(t, err)
	m.subnet, m.family = *subnet.Subnet.SubnetId, *definition.TaskDefinition.TaskDefinitionArn
	m.stack = Stack{
		ID: testStack.ID, VPC: *vpc.Vpc.VpcId, MemberGroup: *member.GroupId, Cluster: *cluster.Cluster.ClusterArn,
		Container: "bastiond", Port: 2222, IPv4: true,
	}
}

func (m *moto) groups() *Groups { return NewGroups(m.adaptersEC2(), m.stack) }

func (m *moto) tasks() *Tasks {
	client := NewECS(m.sdk, unpaced(), func(o *ecs.Options) { o.HTTPClient = m.client })
	return NewTasks(client, m.adaptersEC2(), m.stack, time.Now)
}

func (m *moto) adaptersEC2() *ec2.Client {
	return NewEC2(m.sdk, unpaced(), func(o *ec2.Options) { o.HTTPClient = m.client })
}

// specWithGroup creates the bastion's group and returns the spec of a task in it.
func (m *moto) specWithGroup(t *testing.T, bastionID string, attempt int) bastion.TaskSpec {
	t.Helper()
	group, err := m.groups().Create(t.Context(), bastion.GroupSpec{BastionID: bastionID})
	must(t, err)
	return bastion.TaskSpec{BastionID: bastionID, Attempt: attempt, GroupID: group.ID,
		Subnet: m.subnet, TaskDefinition: m.family, AttemptCreatedAt: time.Now()}
}

const ignoresClientToken = "it ignores the clientToken of RunTask"

func TestOnMoto(t *testing.T) {
	m := startMoto(t)
	t.Run("Groups", func(t *testing.T) {
		cloudtest.Groups(t, func(t *testing.T) cloudtest.GroupsHarness {
			groups := m.groups()
			groups.stack.WidestIPv4, groups.stack.WidestIPv6 = 28, 64
			return cloudtest.GroupsHarness{Groups: groups, Patience: 2 * time.Minute,
				Unsupported: cloudtest.Unsupported{Emulator: "moto", Cases: map[string]string{
					"a group in use cannot be deleted":                 "it deletes groups in use",
					"a refused call has no effect and can be repeated": "it has no quota that a test can change",
				}}}
		})
	})
	t.Run("Tasks", func(t *testing.T) {
		cloudtest.Tasks(t, func(t *testing.T) cloudtest.TasksHarness {
			return cloudtest.TasksHarness{Tasks: m.tasks(), Patience: 2 * time.Minute, Spec: m.specWithGroup,
				Unsupported: cloudtest.Unsupported{Emulator: "moto", Cases: map[string]string{
					"a task has its creation time and its first stop reason":       "its tasks have neither createdAt nor stopCode",
					"an unknown task is not found":                                 "its StopTask of an unknown task is an internal error",
					"an unknown group is not found":                                "its RunTask creates missing groups",
					"16 concurrent runs of an attempt start one task":              ignoresClientToken,
					"a repeated run of a stopped attempt returns the stopped task": ignoresClientToken,
					"a repeated run with other parameters fails":                   ignoresClientToken,
				}}}
		})
	})
	t.Run("public address is associated later", m.publicAddress)
}

// publicAddress tests that a task has no endpoint until a public address is associated
// with its interface. Fargate associates it some time after it attaches the interface.
func (m *moto) publicAddress(t *testing.T) {
	stack := m.stack
	stack.Public = true
	tasks := NewTasks(m.ecs, m.ec2, stack, time.Now)
	task, err := tasks.Run(t.Context(), m.specWithGroup(t, testID, 1))
	must(t, err)
	endpoints := func() []netip.AddrPort {
		t.Helper()
		found, err := tasks.Describe(t.Context(), testID, task.ID)
		must(t, err)
		if len(found) != 1 {
			t.Fatalf("found %+v", found)
		}
		return found[0].Endpoints
	}
	if got := endpoints(); len(got) > 0 {
		t.Errorf("without a public address, the endpoints are %v", got)
	}
	described, err := m.ecs.DescribeTasks(t.Context(), &ecs.DescribeTasksInput{Cluster: aws.String(stack.Cluster), Tasks: []string{task.ID}})
	must(t, err)
	address, err := m.ec2.AllocateAddress(t.Context(), &ec2.AllocateAddressInput{Domain: ec2types.DomainTypeVpc})
	must(t, err)
	_, err = m.ec2.AssociateAddress(t.Context(), &ec2.AssociateAddressInput{
		AllocationId: address.AllocationId, NetworkInterfaceId: aws.String(interfaceOf(described.Tasks[0]))})
	must(t, err)
	want := []netip.AddrPort{netip.MustParseAddrPort(*address.PublicIp + ":2222")}
	if got := endpoints(); !slices.Equal(got, want) {
		t.Errorf("the endpoints are %v, want %v", got, want)
	}
}
