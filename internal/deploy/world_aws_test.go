package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	ecrtypes "github.com/aws/aws-sdk-go-v2/service/ecr/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	lambdatypes "github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/aws/aws-sdk-go-v2/service/servicequotas"
	quotatypes "github.com/aws/aws-sdk-go-v2/service/servicequotas/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

func (w *world) GetCallerIdentity(context.Context, *sts.GetCallerIdentityInput, ...func(*sts.Options)) (*sts.GetCallerIdentityOutput, error) {
	return &sts.GetCallerIdentityOutput{
		Account: aws.String("111122223333"), UserId: aws.String("AROAEXAMPLEEXAMPLE12:session"),
		Arn: aws.String("arn:aws:sts::111122223333:assumed-role/Deployer/session"),
	}, w.call("GetCallerIdentity")
}

func (w *world) GetRole(context.Context, *iam.GetRoleInput, ...func(*iam.Options)) (*iam.GetRoleOutput, error) {
	if w.noRole {
		return nil, &iamtypes.NoSuchEntityException{}
	}
	return &iam.GetRoleOutput{}, w.call("GetRole")
}

// ListAccountSettings has no permission to read another principal's setting.
func (w *world) ListAccountSettings(_ context.Context, in *ecs.ListAccountSettingsInput, _ ...func(*ecs.Options)) (*ecs.ListAccountSettingsOutput, error) {
	root := "arn:aws:iam::111122223333:root"
	setting := ecstypes.Setting{Name: in.Name, Value: &w.dualStack, PrincipalArn: &root}
	switch {
	case in.Name != "dualStackIPv6" || !in.EffectiveSettings || in.PrincipalArn != nil && *in.PrincipalArn != root:
		return nil, refusal("InvalidParameterException", "a deployment does not need that")
	case in.PrincipalArn != nil && !w.isRoot:
		return nil, refusal("AccessDeniedException", "not the root user")
	case in.PrincipalArn == nil && w.ownDualStack != "":
		setting.Value, setting.PrincipalArn = &w.ownDualStack, aws.String("arn:aws:iam::111122223333:role/Deployer")
	}
	return &ecs.ListAccountSettingsOutput{Settings: []ecstypes.Setting{setting}}, w.call("ListAccountSettings")
}

func (w *world) DescribeAvailabilityZones(context.Context, *ec2.DescribeAvailabilityZonesInput, ...func(*ec2.Options)) (*ec2.DescribeAvailabilityZonesOutput, error) {
	out := &ec2.DescribeAvailabilityZonesOutput{}
	for id, kind := range w.zones {
		out.AvailabilityZones = append(out.AvailabilityZones, ec2types.AvailabilityZone{ZoneId: &id, ZoneType: &kind})
	}
	return out, w.call("DescribeAvailabilityZones")
}

func (w *world) DescribeVpcBlockPublicAccessOptions(context.Context, *ec2.DescribeVpcBlockPublicAccessOptionsInput, ...func(*ec2.Options)) (*ec2.DescribeVpcBlockPublicAccessOptionsOutput, error) {
	return &ec2.DescribeVpcBlockPublicAccessOptionsOutput{VpcBlockPublicAccessOptions: &w.publicAccess}, w.call("DescribeVpcBlockPublicAccessOptions")
}

// DescribeVpcBlockPublicAccessExclusions has one exclusion on each page.
func (w *world) DescribeVpcBlockPublicAccessExclusions(_ context.Context, in *ec2.DescribeVpcBlockPublicAccessExclusionsInput, _ ...func(*ec2.Options)) (*ec2.DescribeVpcBlockPublicAccessExclusionsOutput, error) {
	matching := slices.DeleteFunc(slices.Clone(w.exclusions), func(e ec2types.VpcBlockPublicAccessExclusion) bool {
		return slices.ContainsFunc(in.Filters, func(f ec2types.Filter) bool {
			value := map[string]string{"internet-gateway-exclusion-mode": string(e.InternetGatewayExclusionMode), "state": string(e.State)}[*f.Name]
			return !slices.Contains(f.Values, value)
		})
	})
	out := &ec2.DescribeVpcBlockPublicAccessExclusionsOutput{}
	if page := len(aws.ToString(in.NextToken)); page < len(matching) {
		out.VpcBlockPublicAccessExclusions = matching[page : page+1]
		out.NextToken = aws.String(strings.Repeat("x", page+1))
	}
	return out, w.call("DescribeVpcBlockPublicAccessExclusions")
}

func (w *world) GetAccountSettings(context.Context, *lambda.GetAccountSettingsInput, ...func(*lambda.Options)) (*lambda.GetAccountSettingsOutput, error) {
	return &lambda.GetAccountSettingsOutput{AccountLimit: &lambdatypes.AccountLimit{
		ConcurrentExecutions: w.concurrency, UnreservedConcurrentExecutions: &w.unreserved,
	}}, w.call("GetAccountSettings")
}

func (w *world) ListTasks(_ context.Context, in *ecs.ListTasksInput, _ ...func(*ecs.Options)) (*ecs.ListTasksOutput, error) {
	return &ecs.ListTasksOutput{TaskArns: w.trial.taskARNs(*in.Cluster, *in.StartedBy, in.DesiredStatus)}, w.call("ListTasks")
}

func (w *world) DescribeTasks(_ context.Context, in *ecs.DescribeTasksInput, _ ...func(*ecs.Options)) (*ecs.DescribeTasksOutput, error) {
	return &ecs.DescribeTasksOutput{Tasks: w.trial.describeTasks(in.Tasks)}, w.call("DescribeTasks")
}

func (w *world) DescribeVpcAttribute(_ context.Context, in *ec2.DescribeVpcAttributeInput, _ ...func(*ec2.Options)) (*ec2.DescribeVpcAttributeOutput, error) {
	value := &ec2types.AttributeBooleanValue{Value: aws.Bool(w.dns[in.Attribute])}
	out := &ec2.DescribeVpcAttributeOutput{EnableDnsSupport: value}
	if in.Attribute == ec2types.VpcAttributeNameEnableDnsHostnames {
		out = &ec2.DescribeVpcAttributeOutput{EnableDnsHostnames: value}
	}
	return out, w.call("DescribeVpcAttribute")
}

func (w *world) DescribeSubnets(context.Context, *ec2.DescribeSubnetsInput, ...func(*ec2.Options)) (*ec2.DescribeSubnetsOutput, error) {
	return &ec2.DescribeSubnetsOutput{Subnets: []ec2types.Subnet{w.subnet}}, w.call("DescribeSubnets")
}

// DescribeRouteTables returns a main table without routes, and the subnet's own.
func (w *world) DescribeRouteTables(context.Context, *ec2.DescribeRouteTablesInput, ...func(*ec2.Options)) (*ec2.DescribeRouteTablesOutput, error) {
	return &ec2.DescribeRouteTablesOutput{RouteTables: []ec2types.RouteTable{
		{RouteTableId: aws.String("rtb-main"), Associations: []ec2types.RouteTableAssociation{{Main: aws.Bool(true)}}},
		{RouteTableId: aws.String("rtb-own"), Routes: w.routes, Associations: []ec2types.RouteTableAssociation{{SubnetId: aws.String(testSubnet)}}},
	}}, w.call("DescribeRouteTables")
}

func (w *world) DescribeVpcEndpoints(context.Context, *ec2.DescribeVpcEndpointsInput, ...func(*ec2.Options)) (*ec2.DescribeVpcEndpointsOutput, error) {
	return &ec2.DescribeVpcEndpointsOutput{VpcEndpoints: w.endpoints}, w.call("DescribeVpcEndpoints")
}

// DescribeSecurityGroups ignores filters other than the group's name.
func (w *world) DescribeSecurityGroups(_ context.Context, in *ec2.DescribeSecurityGroupsInput, _ ...func(*ec2.Options)) (*ec2.DescribeSecurityGroupsOutput, error) {
	for _, f := range in.Filters {
		if *f.Name == "group-name" {
			return &ec2.DescribeSecurityGroupsOutput{SecurityGroups: w.trial.groups(f.Values[0])}, w.call("DescribeSecurityGroups %s", f.Values[0])
		}
	}
	return &ec2.DescribeSecurityGroupsOutput{SecurityGroups: w.groups}, w.call("DescribeSecurityGroups")
}

func (w *world) DescribeSecurityGroupRules(_ context.Context, in *ec2.DescribeSecurityGroupRulesInput, _ ...func(*ec2.Options)) (*ec2.DescribeSecurityGroupRulesOutput, error) {
	var found []ec2types.SecurityGroupRule
	for _, r := range w.rules {
		if *r.GroupId == in.Filters[0].Values[0] {
			found = append(found, r)
		}
	}
	return &ec2.DescribeSecurityGroupRulesOutput{SecurityGroupRules: found}, w.call("DescribeSecurityGroupRules")
}

func (w *world) DescribeNetworkInterfaces(context.Context, *ec2.DescribeNetworkInterfacesInput, ...func(*ec2.Options)) (*ec2.DescribeNetworkInterfacesOutput, error) {
	out := &ec2.DescribeNetworkInterfacesOutput{}
	for _, id := range w.interfaces {
		out.NetworkInterfaces = append(out.NetworkInterfaces, ec2types.NetworkInterface{NetworkInterfaceId: &id})
	}
	return out, w.call("DescribeNetworkInterfaces")
}

func (w *world) quota(code string) *quotatypes.ServiceQuota {
	if value, has := w.quotas[code]; has {
		return &quotatypes.ServiceQuota{Value: &value}
	}
	return nil
}

func (w *world) GetServiceQuota(_ context.Context, in *servicequotas.GetServiceQuotaInput, _ ...func(*servicequotas.Options)) (*servicequotas.GetServiceQuotaOutput, error) {
	return &servicequotas.GetServiceQuotaOutput{Quota: w.quota(*in.QuotaCode)}, w.call("GetServiceQuota %s", *in.QuotaCode)
}

func (w *world) GetAWSDefaultServiceQuota(_ context.Context, in *servicequotas.GetAWSDefaultServiceQuotaInput, _ ...func(*servicequotas.Options)) (*servicequotas.GetAWSDefaultServiceQuotaOutput, error) {
	return &servicequotas.GetAWSDefaultServiceQuotaOutput{Quota: w.quota(*in.QuotaCode)}, w.call("GetAWSDefaultServiceQuota")
}

func (w *world) DescribeStacks(_ context.Context, in *cloudformation.DescribeStacksInput, _ ...func(*cloudformation.Options)) (*cloudformation.DescribeStacksOutput, error) {
	if err := w.call("DescribeStacks"); err != nil {
		return nil, err
	}
	s := w.named(*in.StackName)
	if s == nil {
		return nil, refusal("ValidationError", "Stack with id "+*in.StackName+" does not exist")
	}
	found := types.Stack{StackName: &s.name, StackId: &s.id, StackStatus: s.status, StackStatusReason: aws.String("the stack's reason")}
	if s.next != "" {
		s.become(s.next)
		s.next = ""
	}
	for key, value := range s.tags {
		found.Tags = append(found.Tags, types.Tag{Key: &key, Value: &value})
	}
	for key, value := range s.params {
		found.Parameters = append(found.Parameters, types.Parameter{ParameterKey: &key, ParameterValue: &value})
	}
	for key, value := range s.outputs {
		found.Outputs = append(found.Outputs, types.Output{OutputKey: &key, OutputValue: &value})
	}
	return &cloudformation.DescribeStacksOutput{Stacks: []types.Stack{found}}, nil
}

// become changes the status, and adds the event of that.
func (s *madeStack) become(status types.StackStatus) {
	s.status = status
	s.happen(types.StackEvent{LogicalResourceId: &s.name, PhysicalResourceId: &s.id, ResourceType: aws.String("AWS::CloudFormation::Stack"), ResourceStatus: types.ResourceStatus(status)})
}

func (s *madeStack) happen(events ...types.StackEvent) {
	for _, e := range events {
		e.EventId = aws.String(fmt.Sprintf("%s/event-%d", s.id, len(s.events)))
		s.events = append(s.events, e)
	}
}

// eventsPage is the number of events in a page.
const eventsPage = 3

// DescribeStackEvents returns the newest first.
func (w *world) DescribeStackEvents(_ context.Context, in *cloudformation.DescribeStackEventsInput, _ ...func(*cloudformation.Options)) (*cloudformation.DescribeStackEventsOutput, error) {
	if err := w.call("DescribeStackEvents"); err != nil {
		return nil, err
	}
	all := slices.Clone(w.named(*in.StackName).events)
	slices.Reverse(all)
	from := 0
	if in.NextToken != nil {
		if _, err := fmt.Sscan(*in.NextToken, &from); err != nil {
			return nil, err
		}
	}
	out := &cloudformation.DescribeStackEventsOutput{StackEvents: all[from:]}
	if to := from + eventsPage; to < len(all) {
		out.StackEvents, out.NextToken = all[from:to], aws.String(fmt.Sprint(to))
	}
	return out, nil
}

func (w *world) ListStacks(context.Context, *cloudformation.ListStacksInput, ...func(*cloudformation.Options)) (*cloudformation.ListStacksOutput, error) {
	out := &cloudformation.ListStacksOutput{StackSummaries: []types.StackSummary{{StackName: aws.String("another-stack"), StackId: aws.String("another-id")}}}
	for _, s := range w.stacks {
		if s.status == types.StackStatusDeleteComplete {
			out.StackSummaries = append(out.StackSummaries, types.StackSummary{StackName: &s.name, StackId: &s.id})
		}
	}
	return out, w.call("ListStacks")
}

func (w *world) ListStackResources(_ context.Context, in *cloudformation.ListStackResourcesInput, _ ...func(*cloudformation.Options)) (*cloudformation.ListStackResourcesOutput, error) {
	s := w.named(*in.StackName)
	kept := types.ResourceStatusDeleteSkipped
	if s.status != types.StackStatusDeleteComplete {
		kept = types.ResourceStatusCreateComplete
	}
	var all []types.StackResourceSummary
	add := func(logical, physical, kind string, status types.ResourceStatus) {
		all = append(all, types.StackResourceSummary{LogicalResourceId: &logical, PhysicalResourceId: &physical, ResourceType: &kind, ResourceStatus: status})
	}
	if s.name == "bastion" {
		add("RecordsTable", "records-1", "AWS::DynamoDB::Table", kept)
		add("LeasesTable", "leases-1", "AWS::DynamoDB::Table", kept)
		add("TaskLogGroup", "logs-1", "AWS::Logs::LogGroup", kept)
		add("Cluster", "cluster-1", "AWS::ECS::Cluster", types.ResourceStatusDeleteComplete)
		add("CreateFunction", "create-1", "AWS::Lambda::Function", types.ResourceStatusDeleteComplete)
		add("DescribeFunction", "describe-1", "AWS::Lambda::Function", types.ResourceStatusDeleteComplete)
		add("DestroyFunction", "destroy-1", "AWS::Lambda::Function", types.ResourceStatusDeleteComplete)
	} else {
		add("Registry", "registry-abc", "AWS::ECR::Repository", kept)
		add("CodeBucket", testBucket, "AWS::S3::Bucket", kept)
	}
	return &cloudformation.ListStackResourcesOutput{StackResourceSummaries: all}, w.call("ListStackResources")
}

// CreateChangeSet checks the input as CloudFormation documents it. The change set is
// ready when it is read for the second time.
func (w *world) CreateChangeSet(_ context.Context, in *cloudformation.CreateChangeSetInput, _ ...func(*cloudformation.Options)) (*cloudformation.CreateChangeSetOutput, error) {
	if err := w.call("CreateChangeSet %s", *in.StackName); err != nil {
		return nil, err
	}
	set := &madeSet{id: "arn:changeSet/" + *in.ChangeSetName, text: aws.ToString(in.TemplateBody), status: types.ChangeSetStatusCreatePending}
	if in.TemplateURL != nil {
		key, ours := strings.CutPrefix(*in.TemplateURL, "https://"+testBucket+".s3.eu-west-1.amazonaws.com/")
		found := w.newest(key)
		if !ours || found == nil {
			return nil, refusal("ValidationError", "no template at "+*in.TemplateURL)
		}
		set.text = string(found.content)
	}
	s := w.named(*in.StackName)
	if created := s != nil && s.status != types.StackStatusReviewInProgress; created != (in.ChangeSetType == types.ChangeSetTypeUpdate) {
		return nil, refusal("ValidationError", "a change set of type "+string(in.ChangeSetType)+" for this stack")
	}
	if s == nil {
		s = w.add(*in.StackName, types.StackStatusReviewInProgress)
		s.params = map[string]string{}
		s.become(s.status)
	}
	var err error
	if set.params, err = parametersOf(s, set.text, in.Parameters); err != nil {
		return nil, err
	}
	set.tags = map[string]string{}
	for _, tag := range in.Tags {
		set.tags[*tag.Key] = *tag.Value
	}
	s.sets = append(s.sets, set)
	return &cloudformation.CreateChangeSetOutput{Id: &set.id, StackId: &s.id}, nil
}

// parametersOf returns the values of the template's parameters.
func parametersOf(s *madeStack, text string, given []types.Parameter) (map[string]string, error) {
	t, err := parsedBefore(text)
	if err != nil || len(text) > 1<<20 {
		return nil, refusal("ValidationError", fmt.Sprintf("Template format error: %v, %d bytes", err, len(text)))
	}
	values := map[string]string{}
	for name, p := range t.parameters {
		if p.Default != nil {
			values[name] = fmt.Sprint(p.Default)
		}
	}
	for _, p := range given {
		name := *p.ParameterKey
		if _, known := t.parameters[name]; !known {
			return nil, refusal("ValidationError", "Parameters: ["+name+"] do not exist in the template")
		}
		if aws.ToBool(p.UsePreviousValue) {
			previous, has := s.params[name]
			if !has {
				return nil, refusal("ValidationError", "Invalid input for parameter key "+name+". Cannot specify usePreviousValue as true for a parameter key not in the previous template")
			}
			values[name] = previous
		} else {
			values[name] = *p.ParameterValue
		}
	}
	for name := range t.parameters {
		if _, has := values[name]; !has {
			return nil, refusal("ValidationError", "Parameters: ["+name+"] must have values")
		}
	}
	return values, nil
}

func (s *madeStack) set(id string) *madeSet {
	for _, set := range s.sets {
		if set.id == id {
			return set
		}
	}
	return nil
}

func (w *world) DescribeChangeSet(_ context.Context, in *cloudformation.DescribeChangeSetInput, _ ...func(*cloudformation.Options)) (*cloudformation.DescribeChangeSetOutput, error) {
	if err := w.call("DescribeChangeSet"); err != nil {
		return nil, err
	}
	s := w.named(*in.StackName)
	set := s.set(*in.ChangeSetName)
	out := &cloudformation.DescribeChangeSetOutput{Status: set.status, StatusReason: &set.reason}
	if set.status == types.ChangeSetStatusCreatePending {
		set.status = types.ChangeSetStatusCreateComplete
		switch {
		case w.fail["change set"] != nil:
			set.status, set.reason = types.ChangeSetStatusFailed, w.fail["change set"].Error()
		case s.text == set.text && maps.Equal(s.params, set.params) && maps.Equal(s.tags, set.tags):
			set.status, set.reason = types.ChangeSetStatusFailed, "The submitted information didn't contain changes. Submit different information to create a change set."
			if strings.Contains(s.text, "Transform:") {
				set.reason = "No updates are to be performed."
			}
		}
	}
	return out, nil
}

// ExecuteChangeSet changes the stack, or rolls the change back if the world has failing.
func (w *world) ExecuteChangeSet(_ context.Context, in *cloudformation.ExecuteChangeSetInput, _ ...func(*cloudformation.Options)) (*cloudformation.ExecuteChangeSetOutput, error) {
	s := w.named(*in.StackName)
	if err := w.call("ExecuteChangeSet %s", s.name); err != nil {
		return nil, err
	}
	set := s.set(*in.ChangeSetName)
	if set.status != types.ChangeSetStatusCreateComplete {
		return nil, refusal("InvalidChangeSetStatus", string(set.status))
	}
	progress, done, back := types.StackStatusUpdateInProgress, types.StackStatusUpdateComplete, types.StackStatusUpdateRollbackComplete
	if s.status == types.StackStatusReviewInProgress {
		progress, done, back = types.StackStatusCreateInProgress, types.StackStatusCreateComplete, types.StackStatusRollbackComplete
	}
	s.sets = nil
	s.become(progress)
	if len(w.failing) > 0 && s.name == "bastion" {
		s.happen(w.failing...)
		s.next, w.failing = back, nil
		return &cloudformation.ExecuteChangeSetOutput{}, nil
	}
	s.happen(
		types.StackEvent{LogicalResourceId: aws.String("Thing"), PhysicalResourceId: aws.String("thing-1"), ResourceType: aws.String("AWS::Test::Thing"), ResourceStatus: types.ResourceStatusCreateInProgress},
		types.StackEvent{LogicalResourceId: aws.String("Thing"), PhysicalResourceId: aws.String("thing-1"), ResourceType: aws.String("AWS::Test::Thing"), ResourceStatus: types.ResourceStatusCreateComplete},
	)
	s.text, s.params, s.tags, s.next = set.text, set.params, set.tags, done
	return &cloudformation.ExecuteChangeSetOutput{}, nil
}

func (w *world) DeleteChangeSet(ctx context.Context, in *cloudformation.DeleteChangeSetInput, _ ...func(*cloudformation.Options)) (*cloudformation.DeleteChangeSetOutput, error) {
	s := w.named(*in.StackName)
	if err := errors.Join(ctx.Err(), w.call("DeleteChangeSet %s", s.name)); err != nil {
		return nil, err
	}
	s.sets = slices.DeleteFunc(s.sets, func(set *madeSet) bool { return set.id == *in.ChangeSetName })
	return &cloudformation.DeleteChangeSetOutput{}, nil
}

func (w *world) UpdateStack(_ context.Context, in *cloudformation.UpdateStackInput, _ ...func(*cloudformation.Options)) (*cloudformation.UpdateStackOutput, error) {
	if err := w.call("UpdateStack"); err != nil {
		return nil, err
	}
	s := w.named(*in.StackName)
	given := map[string]string{}
	for _, p := range in.Parameters {
		given[*p.ParameterKey] = s.params[*p.ParameterKey]
		if !aws.ToBool(p.UsePreviousValue) {
			given[*p.ParameterKey] = *p.ParameterValue
		}
	}
	s.params, s.next = given, types.StackStatusUpdateComplete
	s.become(types.StackStatusUpdateInProgress)
	return &cloudformation.UpdateStackOutput{}, nil
}

func (w *world) DeleteStack(_ context.Context, in *cloudformation.DeleteStackInput, _ ...func(*cloudformation.Options)) (*cloudformation.DeleteStackOutput, error) {
	s := w.named(*in.StackName)
	if err := w.call("DeleteStack %s", s.name); err != nil {
		return nil, err
	}
	s.become(types.StackStatusDeleteInProgress)
	s.next = types.StackStatusDeleteComplete
	if w.fail["delete"] != nil {
		s.happen(types.StackEvent{
			LogicalResourceId: aws.String("MemberGroup"), PhysicalResourceId: aws.String("sg-member"), ResourceType: aws.String("AWS::EC2::SecurityGroup"),
			ResourceStatus: types.ResourceStatusDeleteFailed, ResourceStatusReason: aws.String("DependencyViolation"),
		})
		s.next = types.StackStatusDeleteFailed
	}
	return &cloudformation.DeleteStackOutput{}, nil
}

func (w *world) DescribeImages(_ context.Context, in *ecr.DescribeImagesInput, _ ...func(*ecr.Options)) (*ecr.DescribeImagesOutput, error) {
	return &ecr.DescribeImagesOutput{ImageDetails: []ecrtypes.ImageDetail{{ImageDigest: in.ImageIds[0].ImageDigest}}}, w.call("DescribeImages %s", *in.RepositoryName)
}

func (w *world) DescribeRepositories(context.Context, *ecr.DescribeRepositoriesInput, ...func(*ecr.Options)) (*ecr.DescribeRepositoriesOutput, error) {
	if !w.repo {
		return nil, refusal("RepositoryNotFoundException", "none")
	}
	return &ecr.DescribeRepositoriesOutput{}, w.call("DescribeRepositories")
}

func (w *world) DeleteRepository(_ context.Context, in *ecr.DeleteRepositoryInput, _ ...func(*ecr.Options)) (*ecr.DeleteRepositoryOutput, error) {
	err := w.call("DeleteRepository %s", *in.RepositoryName)
	w.repo = err != nil
	return &ecr.DeleteRepositoryOutput{}, err
}

func (w *world) DescribeTable(_ context.Context, in *dynamodb.DescribeTableInput, _ ...func(*dynamodb.Options)) (*dynamodb.DescribeTableOutput, error) {
	if !w.tables[*in.TableName] {
		return nil, refusal("ResourceNotFoundException", "none")
	}
	return &dynamodb.DescribeTableOutput{}, w.call("DescribeTable")
}

func (w *world) DeleteTable(_ context.Context, in *dynamodb.DeleteTableInput, _ ...func(*dynamodb.Options)) (*dynamodb.DeleteTableOutput, error) {
	err := w.call("DeleteTable %s", *in.TableName)
	if err == nil {
		delete(w.tables, *in.TableName)
	}
	return &dynamodb.DeleteTableOutput{}, err
}

func (w *world) Invoke(ctx context.Context, in *lambda.InvokeInput, _ ...func(*lambda.Options)) (*lambda.InvokeOutput, error) {
	var event events.APIGatewayV2HTTPRequest
	if err := json.Unmarshal(in.Payload, &event); err != nil {
		return nil, err
	}
	if err := w.call("Invoke %s %s %s", *in.FunctionName, event.RequestContext.HTTP.Method, event.RawPath); err != nil {
		return nil, err
	}
	if *in.FunctionName == w.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	status, body := w.serve(*in.FunctionName, event)
	payload, err := json.Marshal(events.APIGatewayV2HTTPResponse{StatusCode: status, Body: body})
	return &lambda.InvokeOutput{Payload: payload}, err
}

func (w *world) GetParameters(_ context.Context, in *ssm.GetParametersInput, _ ...func(*ssm.Options)) (*ssm.GetParametersOutput, error) {
	if aws.ToBool(in.WithDecryption) {
		return nil, refusal("AccessDeniedException", "a deployment does not need the values")
	}
	out := &ssm.GetParametersOutput{}
	for _, name := range in.Names {
		if kind, ok := w.secrets[name]; ok {
			out.Parameters = append(out.Parameters, ssmtypes.Parameter{Name: &name, Type: kind})
		} else {
			out.InvalidParameters = append(out.InvalidParameters, name)
		}
	}
	return out, w.call("GetParameters")
}
