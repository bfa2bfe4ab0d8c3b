//go:build conformance

package system

import (
	"archive/zip"
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	"go.yaml.in/yaml/v4"
)

// cloudFormation plays CloudFormation at the interface that package deploy calls. It
// creates and updates the two stacks of make deploy, by change sets only, and by the
// functions create and update.
type cloudFormation struct {
	t  *testing.T
	s3 *s3.Client

	// create is called when a stack is created, and update when it is updated. They return
	// the outputs and the resources (physical IDs by logical IDs).
	create, update func(name string, parameters map[string]string) (outputs, resources map[string]string, err error)

	id string // of the stack of the service, when it is created next

	mu      sync.Mutex
	stacks  map[string]*playedStack // by name
	sets    map[string]*playedChange
	changes []string // that were executed: "CREATE way-in"
}

// playedStack is a stack.
type playedStack struct {
	name, id  string
	status    types.StackStatus
	params    map[string]string
	outputs   map[string]string
	resources map[string]string
	template  string // its text
	events    []types.StackEvent
}

// playedChange is a change set.
type playedChange struct {
	id       string
	kind     types.ChangeSetType
	params   map[string]string
	template string
	empty    bool // it has no changes
}

func newCloudFormation(t *testing.T, s3 *s3.Client) *cloudFormation {
	return &cloudFormation{t: t, s3: s3, id: stackID, stacks: map[string]*playedStack{}, sets: map[string]*playedChange{}}
}

// find returns the stack with a name or an ID.
func (c *cloudFormation) find(name string) (*playedStack, error) {
	for _, s := range c.stacks {
		if s.name == name || s.id == name {
			return s, nil
		}
	}
	return nil, &smithy.GenericAPIError{Code: "ValidationError", Message: "Stack with id " + name + " does not exist"}
}

// DescribeStacks implements deploy.Stacks, as do the following methods.
func (c *cloudFormation) DescribeStacks(_ context.Context, in *cloudformation.DescribeStacksInput, _ ...func(*cloudformation.Options)) (*cloudformation.DescribeStacksOutput, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.find(*in.StackName)
	if err != nil {
		return nil, err
	}
	shown := types.Stack{StackName: &s.name, StackId: &s.id, StackStatus: s.status}
	for _, name := range slices.Sorted(maps.Keys(s.params)) {
		shown.Parameters = append(shown.Parameters, types.Parameter{ParameterKey: &name, ParameterValue: aws.String(s.params[name])})
	}
	for _, name := range slices.Sorted(maps.Keys(s.outputs)) {
		shown.Outputs = append(shown.Outputs, types.Output{OutputKey: &name, OutputValue: aws.String(s.outputs[name])})
	}
	return &cloudformation.DescribeStacksOutput{Stacks: []types.Stack{shown}}, nil
}

func (c *cloudFormation) DescribeStackEvents(_ context.Context, in *cloudformation.DescribeStackEventsInput, _ ...func(*cloudformation.Options)) (*cloudformation.DescribeStackEventsOutput, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.find(*in.StackName)
	if err != nil {
		return nil, err
	}
	events := slices.Clone(s.events)
	slices.Reverse(events) // the newest first
	return &cloudformation.DescribeStackEventsOutput{StackEvents: events}, nil
}

func (c *cloudFormation) ListStackResources(_ context.Context, in *cloudformation.ListStackResourcesInput, _ ...func(*cloudformation.Options)) (*cloudformation.ListStackResourcesOutput, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.find(*in.StackName)
	if err != nil {
		return nil, err
	}
	out := &cloudformation.ListStackResourcesOutput{}
	for _, logical := range slices.Sorted(maps.Keys(s.resources)) {
		out.StackResourceSummaries = append(out.StackResourceSummaries, types.StackResourceSummary{
			LogicalResourceId: &logical, PhysicalResourceId: aws.String(s.resources[logical]), ResourceStatus: types.ResourceStatusCreateComplete,
		})
	}
	return out, nil
}

func (c *cloudFormation) CreateChangeSet(ctx context.Context, in *cloudformation.CreateChangeSetInput, _ ...func(*cloudformation.Options)) (*cloudformation.CreateChangeSetOutput, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.find(*in.StackName)
	exists := err == nil && s.status != types.StackStatusReviewInProgress
	if exists != (in.ChangeSetType == types.ChangeSetTypeUpdate) {
		return nil, &smithy.GenericAPIError{Code: "ValidationError", Message: fmt.Sprintf("a change set of type %s does not fit the stack %s", in.ChangeSetType, *in.StackName)}
	}
	if s == nil {
		s = &playedStack{name: *in.StackName, id: strings.Replace(c.id, "/way-in/", "/"+*in.StackName+"/", 1), status: types.StackStatusReviewInProgress}
		c.stacks[s.name] = s
	}
	set := &playedChange{id: "arn:change-set/" + *in.ChangeSetName, kind: in.ChangeSetType}
	if set.template, err = c.template(ctx, in); err != nil {
		return nil, err
	}
	if set.params, err = parametersOf(set.template, s.params, in.Parameters); err != nil {
		return nil, err
	}
	set.empty = exists && set.template == s.template && maps.Equal(set.params, s.params)
	c.sets[set.id] = set
	return &cloudformation.CreateChangeSetOutput{Id: &set.id, StackId: &s.id}, nil
}

// template returns the template's text. A template in the bucket must refer to code in the
// bucket, for each function.
func (c *cloudFormation) template(ctx context.Context, in *cloudformation.CreateChangeSetInput) (string, error) {
	if in.TemplateBody != nil {
		if len(*in.TemplateBody) > 51200 { // "AWS CloudFormation quotas" in the user guide
			return "", &smithy.GenericAPIError{Code: "ValidationError", Message: "the template's body is too large"}
		}
		return *in.TemplateBody, nil
	}
	key, ours := strings.CutPrefix(*in.TemplateURL, "https://"+bucketDomain+"/")
	if !ours {
		return "", fmt.Errorf("the template %s is not in the bucket", *in.TemplateURL)
	}
	text, err := c.object(ctx, codeBucket, key)
	if err != nil {
		return "", err
	}
	if len(text) > 1<<20 {
		return "", &smithy.GenericAPIError{Code: "ValidationError", Message: "the template is too large"}
	}
	return string(text), c.checkCode(ctx, text)
}

func (c *cloudFormation) object(ctx context.Context, bucket, key string) ([]byte, error) {
	out, err := c.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &bucket, Key: &key})
	if err != nil {
		return nil, fmt.Errorf("the object %s: %w", key, err)
	}
	defer out.Body.Close()
	return io.ReadAll(out.Body)
}

// checkCode checks what Lambda checks, and that the code is for ARM as the template says.
func (c *cloudFormation) checkCode(ctx context.Context, template []byte) error {
	var read struct {
		Resources map[string]struct {
			Type       string `yaml:"Type"`
			Properties struct {
				CodeURI struct {
					Bucket string `yaml:"Bucket"`
					Key    string `yaml:"Key"`
				} `yaml:"CodeUri"`
			} `yaml:"Properties"`
		} `yaml:"Resources"`
	}
	if err := yaml.Unmarshal(template, &read); err != nil {
		return err
	}
	functions := 0
	for name, resource := range read.Resources {
		if resource.Type != "AWS::Serverless::Function" {
			continue
		}
		functions++
		at := resource.Properties.CodeURI
		code, err := c.object(ctx, at.Bucket, at.Key)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		archive, err := zip.NewReader(bytes.NewReader(code), int64(len(code)))
		if err != nil || len(archive.File) != 1 || archive.File[0].Name != "bootstrap" || archive.File[0].Mode() != 0o755 {
			return fmt.Errorf("%s: the code is not a zip file with an executable bootstrap: %v", name, err)
		}
		file, err := archive.File[0].Open()
		if err != nil {
			return err
		}
		defer file.Close()
		program, err := io.ReadAll(file)
		if err != nil {
			return err
		}
		executable, err := elf.NewFile(bytes.NewReader(program))
		if err != nil || executable.Machine != elf.EM_AARCH64 {
			return fmt.Errorf("%s: the bootstrap is not an executable for arm64: %v", name, err)
		}
	}
	if functions != len(programs())-1 {
		return fmt.Errorf("the template has %d functions, want %d", functions, len(programs())-1)
	}
	return nil
}

// parametersOf returns the values of a template's parameters: given ones, previous ones if
// the change set asks for them, and defaults. CloudFormation refuses a parameter that the
// template does not have.
func parametersOf(template string, previous map[string]string, given []types.Parameter) (map[string]string, error) {
	var read struct {
		Parameters map[string]struct {
			Default any `yaml:"Default"`
		} `yaml:"Parameters"`
	}
	if err := yaml.Unmarshal([]byte(template), &read); err != nil {
		return nil, err
	}
	all := map[string]string{}
	for _, p := range given {
		name := *p.ParameterKey
		if _, known := read.Parameters[name]; !known {
			return nil, &smithy.GenericAPIError{Code: "ValidationError", Message: "Parameters: [" + name + "] do not exist in the template"}
		}
		if all[name] = aws.ToString(p.ParameterValue); aws.ToBool(p.UsePreviousValue) {
			all[name] = previous[name]
		}
	}
	for name, parameter := range read.Parameters {
		if _, has := all[name]; has {
			continue
		}
		if parameter.Default == nil {
			return nil, &smithy.GenericAPIError{Code: "ValidationError", Message: "Parameters: [" + name + "] must have values"}
		}
		all[name] = fmt.Sprint(parameter.Default)
	}
	return all, nil
}

func (c *cloudFormation) DescribeChangeSet(_ context.Context, in *cloudformation.DescribeChangeSetInput, _ ...func(*cloudformation.Options)) (*cloudformation.DescribeChangeSetOutput, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sets[*in.ChangeSetName].empty {
		return &cloudformation.DescribeChangeSetOutput{
			Status:       types.ChangeSetStatusFailed,
			StatusReason: aws.String("The submitted information didn't contain changes. Submit different information to create a change set."),
		}, nil
	}
	return &cloudformation.DescribeChangeSetOutput{Status: types.ChangeSetStatusCreateComplete}, nil
}

func (c *cloudFormation) DeleteChangeSet(_ context.Context, in *cloudformation.DeleteChangeSetInput, _ ...func(*cloudformation.Options)) (*cloudformation.DeleteChangeSetOutput, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sets, *in.ChangeSetName)
	return &cloudformation.DeleteChangeSetOutput{}, nil
}

func (c *cloudFormation) ExecuteChangeSet(_ context.Context, in *cloudformation.ExecuteChangeSetInput, _ ...func(*cloudformation.Options)) (*cloudformation.ExecuteChangeSetOutput, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.find(*in.StackName)
	if err != nil {
		return nil, err
	}
	set := c.sets[*in.ChangeSetName]
	c.changes = append(c.changes, string(set.kind)+" "+s.name)
	change := c.update
	if set.kind == types.ChangeSetTypeCreate {
		change = c.create
	}
	s.event(s.name, "AWS::CloudFormation::Stack", types.ResourceStatus(set.kind)+"_IN_PROGRESS", "")
	outputs, resources, err := change(s.name, set.params)
	if err != nil {
		s.status = types.StackStatus(set.kind) + "_ROLLBACK_COMPLETE"
		if set.kind == types.ChangeSetTypeCreate {
			s.status = types.StackStatusRollbackComplete
		}
		s.event("RecordsTable", "AWS::DynamoDB::Table", types.ResourceStatus(set.kind)+"_FAILED", err.Error())
		s.event(s.name, "AWS::CloudFormation::Stack", types.ResourceStatus(s.status), "")
		return &cloudformation.ExecuteChangeSetOutput{}, nil
	}
	s.outputs, s.resources, s.template, s.params = outputs, resources, set.template, set.params
	for _, logical := range slices.Sorted(maps.Keys(resources)) {
		s.event(logical, "AWS::Played::Resource", types.ResourceStatus(set.kind)+"_COMPLETE", "")
	}
	s.status = types.StackStatus(set.kind) + "_COMPLETE"
	s.event(s.name, "AWS::CloudFormation::Stack", types.ResourceStatus(s.status), "")
	return &cloudformation.ExecuteChangeSetOutput{}, nil
}

// event adds an event to a stack.
func (s *playedStack) event(logical, kind string, status types.ResourceStatus, reason string) {
	physical := logical + "-1"
	if logical == s.name {
		physical = s.id
	}
	s.events = append(s.events, types.StackEvent{
		EventId: aws.String(fmt.Sprintf("%s-%d", s.name, len(s.events))), StackId: &s.id, StackName: &s.name,
		LogicalResourceId: &logical, PhysicalResourceId: &physical, ResourceType: &kind, ResourceStatus: status, ResourceStatusReason: &reason,
	})
}

func (c *cloudFormation) DeleteStack(_ context.Context, in *cloudformation.DeleteStackInput, _ ...func(*cloudformation.Options)) (*cloudformation.DeleteStackOutput, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := c.find(*in.StackName)
	if err != nil {
		return nil, err
	}
	c.changes = append(c.changes, "DELETE "+s.name)
	s.event(s.name, "AWS::CloudFormation::Stack", types.ResourceStatusDeleteComplete, "")
	s.status = types.StackStatusDeleteComplete
	delete(c.stacks, s.name)
	c.stacks[s.id+" deleted"] = &playedStack{id: s.id, status: s.status, events: s.events} // found by its ID only
	return &cloudformation.DeleteStackOutput{}, nil
}

func (c *cloudFormation) UpdateStack(context.Context, *cloudformation.UpdateStackInput, ...func(*cloudformation.Options)) (*cloudformation.UpdateStackOutput, error) {
	return nil, fmt.Errorf("make deploy does not call UpdateStack")
}

func (c *cloudFormation) ListStacks(context.Context, *cloudformation.ListStacksInput, ...func(*cloudformation.Options)) (*cloudformation.ListStacksOutput, error) {
	return nil, fmt.Errorf("make deploy does not call ListStacks")
}

// takeChanges returns what was executed since the last time.
func (c *cloudFormation) takeChanges() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer func() { c.changes = nil }()
	return c.changes
}
