package bastion

import (
	"slices"
	"strings"
	"testing"
)

// The pages of the Amazon ECS developer guide, and other sources, that several rows of
// TestStopReasons come from.
const (
	pageStart    = "ECS guide: Troubleshooting Amazon ECS TaskFailedToStart errors"
	pagePull     = "ECS guide: CannotPullContainer task errors in Amazon ECS"
	pageResource = "ECS guide: Troubleshooting Amazon ECS ResourceInitializationError errors"
	pageMissing  = "ECS guide: Troubleshooting Amazon ECS ResourceNotFoundException errors"
	pageCodes    = "ECS guide: Stopped tasks error codes"
	pageStopped  = "ECS guide: Checking stopped tasks for errors"
	pageMemory   = "ECS guide: Troubleshooting Amazon ECS OutOfMemoryError errors"
	pageRuntime  = "ECS guide: Troubleshooting Amazon ECS ContainerRuntimeError errors"
	pageTimeout  = "ECS guide: Troubleshooting Amazon ECS ContainerRuntimeTimeoutError errors"
	publicCode   = "public repositories that quote the text"
)

// stopReasonRows are the texts and codes with which ECS stops tasks. If the text on a page
// has a placeholder, such as <reason>, the row has the placeholder, too.
var stopReasonRows = []struct {
	code   string // stopCode
	reason string // stoppedReason, or the reason of the container
	want   Failure
	source string
}{
	// Capacity and interruptions.
	{"TaskFailedToStart", "Capacity is unavailable at this time. Please try again later or in a different availability zone", CapacityFailure, "ECS guide: Service event messages"},
	{"SpotInterruption", "Capacity is unavailable at this time. Please try again later or in a different availability zone", CapacityFailure, "ECS guide: Troubleshooting Amazon ECS SpotInterruption errors (no Fargate Spot capacity)"},
	{"SpotInterruption", "Your Spot Task was interrupted.", failureSpot, "aws/containers-roadmap#1565"},
	{"TerminationNotice", "Your Spot Task was interrupted.", failureSpot, "ECS guide: AWS Fargate capacity providers"},
	{"TerminationNotice", "ECS is performing maintenance on the underlying infrastructure hosting the task", failureHost, "ECS guide: AWS Fargate task maintenance"},
	{"ServiceSchedulerInitiated", "ECS is performing maintenance on the underlying infrastructure hosting the task", failureHost, "ECS guide: AWS Fargate task maintenance"},
	{"TaskFailedToStart", "Host EC2 (instance id) stopped/terminated", failureHost, pageStopped},
	{"", "Host EC2 (instance i-0abc) terminated.", failureHost, pageStopped},
	{"", "Container instance deregistration forced by user", failureHost, pageStopped},
	{"ServiceSchedulerInitiated", "Scaling activity initiated by (deployment deployment-id)", failureStopped, pageStopped},
	{"ServiceSchedulerInitiated", "Task failed ELB health checks in (elb elb-name)", failureStopped, pageStopped},
	{"UserInitiated", "Task stopped by user", failureStopped, "aws-solutions/distributed-load-testing-on-aws#82"},
	{"UserInitiated", "no log group, AccessDenied, CannotPull: a reason that a person wrote", failureStopped, "StopTask takes any reason"},

	// CannotPullContainerError: the network.
	{"TaskFailedToStart", "CannotPullContainerError: The task cannot pull 'image-name' from the Amazon ECR repository 'repository URI'. There is a connection issue between the task and Amazon ECR. Check your task network configuration.", failureImageRoute, pagePull},
	{"TaskFailedToStart", "CannotPullContainerError: The task can’t pull the image. Check your network configuration", failureImageRoute, pagePull},
	{"TaskFailedToStart", "CannotPullContainerError: API error (500): Get https://111122223333.dkr.ecr.us-east-1.amazonaws.com/v2/: net/http: request canceled while waiting for connection", failureImageRoute, pagePull},
	{"TaskFailedToStart", "CannotPullContainerError: Error response from daemon: Get url: net/http: request canceled while waiting for connection", failureImageRoute, pagePull},
	{"TaskFailedToStart", "CannotPullContainerError: pull command failed: panic: runtime error: invalid memory address or nil pointer dereference", failureImageRoute, pagePull},
	{"TaskFailedToStart", "CannotPullContainerError: Context canceled", failureImageRoute, pagePull},
	{"TaskFailedToStart", "CannotPullContainerError: API error (500): Get https://registry-1.docker.io/v2/: net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)", failureImageRoute, "aws/amazon-ecs-agent#1128"},
	{"TaskFailedToStart", "CannotPullContainerError: pull image manifest has been retried 5 time(s): failed to resolve ref quay.io/deepfenceio/cloud-scanner:latest: failed to do request: Head \"https://quay.io/v2/deepfenceio/cloud-scanner/manifests/latest\": dial tcp 3.210.148.47:443: i/o timeout", failureImageRoute, "deepfence/terraform-aws-cloud-scanner#13"},
	{"TaskFailedToStart", "CannotPullContainerError: The task cannot pull ###.dkr.ecr.us-east-1.amazonaws.com/clubapp-backend:latest from the registry. There is a connection issue between the task and the registry. Check your task network configuration. : failed to copy: httpReadSeeker: failed open: failed to do request: Get: dial tcp 52.216.63.90:443: i/o timeout", failureImageRoute, publicCode},

	// CannotPullContainerError: permissions.
	{"TaskFailedToStart", "CannotPullContainerError: The task can’t pull the image. Check that the role has the permissions to pull images from the registry.", failureImageDenied, pagePull},
	{"TaskFailedToStart", "CannotPullContainerError: pull access denied", failureImageDenied, pagePull},
	{"TaskFailedToStart", "CannotPullContainerError: Error response from daemon: pull access denied for 831759287394.dkr.ecr.us-west-2.amazonaws.com/amberwing-sidecar, repository does not exist or may require 'docker login': denied", failureImageDenied, "aws/aws-toolkit-jetbrains#2318"},
	{"TaskFailedToStart", "CannotPullContainerError: inspect image has been retried 1 time(s): failed to resolve ref \"xxxxx.xxx\": unexpected status code [manifests 6981141]: 403 Forbidden", failureImageDenied, "aws/aws-cdk#14457"},
	{"TaskFailedToStart", "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref 366590864501.dkr.ecr.us-west-2.amazonaws.com/bedrock-proxy-api-ecs:latest: unexpected status from HEAD request to https://366590864501.dkr.ecr.us-west-2.amazonaws.com/v2/bedrock-proxy-api-ecs/blobs/sha256:5de4: 403 Forbidden", failureImageDenied, "aws-samples/bedrock-access-gateway#114"},
	{"TaskFailedToStart", "CannotPullContainer AccessDenied", failureImageDenied, "nathanpeck/aws-cloudformation-fargate#13"},

	// CannotPullContainerError: the image, the rate and the rest.
	{"TaskFailedToStart", "CannotPullContainerError: API error (404): repository 111122223333.dkr.ecr.us-east-1.amazonaws.com/<repo>/<image> not found", failureImageAbsent, pagePull},
	{"TaskFailedToStart", "CannotPullContainerError: pull image manifest has been retried 1 time(s): failed to resolve ref ***.dkr.ecr.us-east-1.amazonaws.com/stocks-app-registry-***:technicalsdaily-34683c0: not found", failureImageAbsent, publicCode},
	{"TaskFailedToStart", "CannotPullContainerError: Error response from daemon: manifest for <ecr-repo-uri>:latest not found: manifest unknown", failureImageAbsent, publicCode},
	{"TaskFailedToStart", "CannotPullContainerError: ERROR: toomanyrequests: Too Many Requests.", failureImageRate, pagePull},
	{"TaskFailedToStart", "CannotPullContainerError: You have reached your pull rate limit. You may increase the limit by authenticating and upgrading: https://www.docker.com/increase-rate-limits.", failureImageRate, pagePull},
	{"TaskFailedToStart", "CannotPullContainerError: inspect image has been retried 5 time(s): httpReaderSeeker: failed open: unexpected status code Too Many Requests - Server message: toomanyrequests: You have reached your pull rate limit. You may increase the limit by authenticating and upgrading:", failureImageRate, "AWS re:Post: How do I resolve the error \"CannotPullContainerError: You have reached your pull rate limit\" in Amazon ECS?"},
	{"TaskFailedToStart", "CannotPullContainerError: pull image manifest has been retried 7 time(s): image Manifest does not contain descriptor matching platform 'linux/amd64'.", failureImagePlatform, "aviswerdlow/relay#71"},
	{"TaskFailedToStart", "CannotPullContainerError: failed to find a descriptor for platform {linux/amd64}", failureImagePlatform, "aws/containers-roadmap#1120"},
	{"TaskFailedToStart", "CannotPullContainerError: write /var/lib/docker/tmp/GetImageBlob111111111: no space left on device", failureImageSpace, pagePull},
	{"TaskFailedToStart", "CannotPullContainerError: pull image manifest has been retried 5 time(s): failed to resolve ref", failureImage, pagePull},
	{"TaskFailedToStart", "CannotPullContainerError: ref pull has been retried 1 time(s): failed to copy: httpReaderSeeker: failed open: unexpected status code", failureImage, pagePull},
	{"TaskFailedToStart", "CannotPullContainerError: error pulling image configuration", failureImage, pagePull},
	{"TaskFailedToStart", "CannotPullContainerError: ref pull has been retried 1 time(s): number of layers and diffIDs don't match: 3 != 15.", failureImage, "vrnithinkumar.github.io: AWS ECS Task failure due to CannotPullContainerError"},

	// Network interfaces.
	{"TaskFailedToStart", "Unexpected EC2 error while attempting to Create Network Interface with public IP assignment enabled in subnet 'subnet-id'", failureInterface, pageStart},
	{"TaskFailedToStart", "Unexpected EC2 error while attempting to Create Network Interface with public IP assignment enabled in subnet 'subnet-id': InsufficientFreeAddressesInSubnet", failureInterface, pageStart},
	{"TaskFailedToStart", "InsufficientFreeAddressesInSubnet", failureInterface, "paradisec-archive/nabu#1259 (the code alone)"},
	{"TaskFailedToStart", "insufficientfreeaddressesinsubnet: unexpected ec2 error while attempting to create network interface", failureInterface, "another case and order of the same words"},
	{"TaskFailedToStart", "Unexpected EC2 error while attempting to Create Network Interface in subnet 'subnet-id': NetworkInterfaceLimitExceeded", failureInterface, "EC2 API: Error codes"},
	{"TaskFailedToStart", "Unexpected EC2 error while attempting to Create Network Interface in subnet 'subnet-id': AuthFailure", failureInterface, publicCode + ", which try again"},
	{"TaskFailedToStart", "Unexpected EC2 error while attempting to tag the network interface: TagPolicyViolation", failureInterfaceDenied, publicCode},
	{"TaskFailedToStart", "Unexpected EC2 error while attempting to Create Network Interface in subnet 'subnet-id': UnauthorizedOperation", failureInterfaceDenied, "EC2 API: Error codes"},
	{"TaskFailedToStart", "Unexpected EC2 error while attempting to attach network interface to instance", failureInterface, publicCode},
	{"TaskFailedToStart", "Unable to attach network interface to unused device index", failureInterface, pageStart},
	{"TaskFailedToStart", "Timeout waiting for network interface provisioning to complete.", failureInterface, "aws/amazon-ecs-agent#4825"},
	{"TaskFailedToStart", "ResourceInitializationError: failed to configure ENI: failed to setup regular eni: netplugin failed with no error message", failureInterface, publicCode},

	// ResourceInitializationError: registry and secrets.
	{"TaskFailedToStart", "ResourceInitializationError: unable to pull secrets or registry auth: The task cannot pull registry auth from Amazon ECR: There is a connection issue between the task and Amazon ECR. Check your task network configuration. operation error ECR: GetAuthorizationToken, exceeded maximum number of attempts, 3, https response error StatusCode: 0, RequestID: , request send failed, Post \"https://api.ecr.eu-north-1.amazonaws.com/\": dial tcp 10.42.10.15:443: i/o timeout", failureRoute, publicCode},
	{"TaskFailedToStart", "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to retrieve ecr registry auth: service call has been retried 3 time(s): RequestError: send request failed caused by: Post \"https://api.ecr.us-east-2.amazonaws.com/\": dial tcp: i/o timeout. Please check your task network configuration.", failureRoute, "doctorray117/minecraft-ondemand#74"},
	{"TaskFailedToStart", "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to retrieve ecr registry auth: service call has been retried 1 time(s): RequestError: send request failed caused by: Post https://api.ecr....", failureRoute, "aws-samples/aws-fargate-pipeline-lambda-autoscaling#3"},
	{"TaskFailedToStart", "ResourceInitializationError: unable to pull secrets or registry auth", failureRoute, "nikovirtala/cdk-github-actions-runner#3"},
	{"TaskFailedToStart", "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to retrieve secrets from ssm: service call has been retried 5 time(s): RequestCanceled: request context canceled caused by: context deadli...", failureRoute, "umotif-public/terraform-aws-ecs-fargate#50"},
	{"TaskFailedToStart", "ResourceInitializationError: The task cannot pull secrets from AWS Systems Manager Parameter Store. Check your network connection between the task and AWS Systems Manager.", failureRoute, pageResource},
	{"TaskFailedToStart", "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to retrieve secret from asm: service call has been retried 5 time(s): failed to fetch secret arn:aws:secretsmanager:us-west-2:*:secret:DBPasswordSecret-* from secrets manager: RequestCanceled: request context canceled caused by: context deadline exceeded. Please check your task network configuration.", failureRoute, "Releem/releem-agent#195"},
	{"TaskFailedToStart", "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to retrieve secret from asm: service call has been retried 1 time(s): AccessDeniedException", failurePermission, "fixdevs.com: AWS ECS Task Failed to Start"},
	{"TaskFailedToStart", "ResourceInitializationError: unable to pull secrets or registry auth: operation error ECR: GetAuthorizationToken, https response error StatusCode: 400, api error AccessDeniedException: User: arn:aws:sts::111122223333:assumed-role/role/task is not authorized to perform: ecr:GetAuthorizationToken on resource: * with an explicit deny in a service control policy", failurePermission, "IAM guide: Troubleshoot access denied error messages (its words, after those of the rows above)"},
	{"TaskFailedToStart", "resourceinitializationerror: an explicit deny of a KMS key: Access Denied", failurePermission, "another case of the same words"},
	{"TaskFailedToStart", "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to retrieve secret from asm: service call has been retried 1 time(s): invalid character '\\'' looking for beginning of value", failureDefinition, "rileydakota/valheim-ecs-fargate-cdk#9"},
	{"TaskFailedToStart", "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval failed: unable to get registry auth from asm: service call has been retried 5 time(s): asm fetching secret from the service for ...", failureDefinition, "aws-samples/keycloak-on-aws#222"},
	{"TaskFailedToStart", "ResourceInitializationError: The task can't retrieve the secret with ARN 'secretARN' from Secrets Manager. Check whether the secret exists in the specified Region.", failureDefinition, pageResource},
	{"TaskFailedToStart", "Fetching secret data from AWS Secrets Manager in region region: secret secretARN: ResourceNotFoundException: Secrets Manager can't find the specified secret.", failureDefinition, pageMissing},
	{"TaskFailedToStart", "ResourceInitializationError: failed to download env files: service call has been retried 1 time(s): operation error S3: HeadObject, https response error StatusCode: 403, api error Forbidden: Forbidden.", failurePermission, publicCode},
	{"TaskFailedToStart", "ResourceInitializationError: failed to download env files: file download command: non-empty error stream: RequestCanceled: request context cancelled caused by: context deadline exceeded", failureRoute, publicCode + ", with aws/aws-cdk#12720"},
	{"TaskFailedToStart", "ResourceInitializationError: failed to invoke EFS utils commands to set up EFS volumes", failureDefinition, pageResource},
	{"TaskFailedToStart", "CannotCreateVolumeError", failureDefinition, pageCodes},
	{"TaskFailedToStart", "The selected task definition is not compatible with the selected compute strategy", failureDefinition, pageStart},
	{"", "ECS was unable to assume the role 'arn:aws:iam::111111111111:role/service-task-6cba4ed' that was provided for this task. Please verify that the role being passed has the proper trust relationship and permissions and that your IAM user has permissions to pass this role.", failureRole, "pulumi/pulumi-awsx#927"},

	// ResourceInitializationError: logs.
	{"TaskFailedToStart", "ResourceInitializationError: failed to validate logger args: create stream has been retried 1 times: failed to create Cloudwatch log stream: ResourceNotFoundException: The specified log group does not exist. : exit status 1", failureLogGroup, publicCode},
	{"TaskFailedToStart", "ResourceInitializationError: failed to initialize logging driver: The task cannot find the Amazon CloudWatch log group defined in the task definition.", failureLogGroup, pageResource},
	{"TaskFailedToStart", "ResourceInitializationError: failed to validate logger args: The task cannot find the Amazon CloudWatch log group defined in the task definition. There is a connection issue between the task and Amazon CloudWatch. Check your network configuration. signal: killed", failureRoute, publicCode},
	{"TaskFailedToStart", "CannotStartContainerError: Error response from daemon: failed to initialize logging driver: failed to create Cloudwatch log stream: ResourceNotFoundException: The specified log group does not exist.", failureLogGroup, "prakhar1989/docker-curriculum#260"},
	{"TaskFailedToStart", "CannotStartContainerError: Error response from daemon: failed to initialize logging driver: failed to create Cloudwatch log group: AccessDeniedException: User: arn:aws:sts::765486523053:assumed-role/amazon-ecs-cli-setup-foodtrucks-EcsInstanceRole-1II7J9P4", failurePermission, "prakhar1989/docker-curriculum#260"},
	{"TaskFailedToStart", "ResourceInitializationError: failed to validate logger args: create stream has been retried 1 times: failed to create Cloudwatch log group: AccessDeniedException: User: arn:aws:sts::[redacted]:assumed-role/[redacted] is not authorized to perform: logs:CreateLogGroup on resource: arn:aws:logs:eu-central-1:[redacted]:log-group:[redacted]:log-stream: because no identity-based policy allows the logs:CreateLogGroup action : exit status 1", failurePermission, "terraform-aws-modules/terraform-aws-ecs#313"},
	{"TaskFailedToStart", "ResourceInitializationError: failed to validate logger args: create stream has been retried 1 times: failed to create Cloudwatch log stream: AccessDeniedException: User: arn:aws:sts::zzzzzzzzzzzz:assumed-role/ecs.task.minecraft-server/123456a999ee4b919...", failurePermission, "doctorray117/minecraft-ondemand#12"},
	{"TaskFailedToStart", "ResourceInitializationError: failed to validate logger args: unable to get awslogs driver arguments: awslogs-region is required", failureDefinition, publicCode},
	{"TaskFailedToStart", "ResourceInitializationError: failed to validate logger args: : signal: killed", failureRoute, publicCode},
	{"TaskFailedToStart", "ResourceInitializationError: failed to create Cloudwatch log group: AccessDeniedException: not authorized to perform: logs:CreateLogGroup", failurePermission, publicCode},
	{"TaskFailedToStart", "ResourceInitializationError: failed to initialize logging driver: <reason>", failureRoute, pageCodes},

	// The container.
	{"TaskFailedToStart", "CannotStartContainerError: ResourceInitializationError: failed to create new container runtime task: OCI runtime create failed: container_linux.go:370: starting container process caused: exec: \"/opt/sonarqube/bin/run.sh\": stat /opt/sonarqube/bin/run.sh...no such file or direct...", failureImageBroken, "aws/amazon-ecs-agent#2954"},
	{"TaskFailedToStart", "CannotStartContainerError: ResourceInitializationError: failed to create new container runtime task: failed to create shim: OCI runtime create failed: container_linux.go:380: starting container process caused: exec: \"-url\": executable file not found in", failureImageBroken, "jenkinsci/amazon-ecs-plugin#258"},
	{"TaskFailedToStart", "CannotStartContainerError: ResourceInitializationError: failed to create new container runtime task: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: error during container init: error creating device nodes: mknod /run/containerd/io.containerd.runtime.v2.task/fargate.task/962011037cd2435a9aa5f40392d82936-2949673445/rootfs/dev/null: errno 524: unknown", failureRuntime, "aws/amazon-ecs-agent#3526"},
	{"TaskFailedToStart", "CannotStartContainerError: ResourceInitializationError: unable to create new container: mount callback failed on /tmp/containerd-mount916692511: open /tmp/containerd-mount916692511/etc/passwd: no such file or directory", failureRuntime, "aws-samples/net-modernization#13"},
	{"TaskFailedToStart", "CannotStartContainerError: Error response from daemon: OCI runtime create failed: container_linux.go:380: starting container process caused: container init was OOM-killed (memory limit too low?): unknown", failureMemory, "aws/amazon-ecs-agent#3021"},
	{"TaskFailedToStart", "CannotStartContainerError: failed to get container status: <reason>", failureRuntime, pageCodes},
	{"TaskFailedToStart", "CannotStopContainerError: failed sending SIGTERM to container: <reason>", failureRuntime, pageCodes},
	{"TaskFailedToStart", "CannotInspectContainerError: <reason>", failureRuntime, pageCodes},
	{"TaskFailedToStart", "CannotCreateContainerError: API error (500): devmapper: Thin Pool has 4350 free data blocks which is less than minimum required 4454 free data blocks.", failureRuntime, "ECS guide: CannotCreateContainerError: API error (500): devmapper"},
	{"TaskFailedToStart", "ContainerRuntimeError", failureRuntime, pageRuntime},
	{"TaskFailedToStart", "ContainerRuntimeTimeoutError: Could not transition to running; timed out after waiting 1m: <reason>", failureRuntime, pageTimeout},
	{"TaskFailedToStart", "DockerTimeoutError: Could not transition to running; timed out after waiting 1m: <reason>", failureRuntime, pageCodes},
	{"TaskFailedToStart", "InternalError: <reason>", failureRuntime, pageStart},
	{"EssentialContainerExited", "Essential container in task exited: OutOfMemoryError: Container killed due to memory usage", failureMemory, pageMemory + "; aws/amazon-ecs-agent#1187"},
	{"TaskFailedToStart", "Task failed to start", failureStart, "aws/containers-roadmap#2561"},
	{"TaskFailedToStart", "AGENT", failureStart, pageStart + " (only tasks on EC2 instances)"},
	{"TaskFailedToStart", "", failureStart, "aws/amazon-ecs-agent#1654"},
}

func TestStopReasons(t *testing.T) {
	for _, row := range stopReasonRows {
		if row.source == "" {
			t.Errorf("%q has no source", row.reason)
		}
		for _, reason := range []string{row.reason, strings.ToUpper(row.reason)} {
			if got := explain(Task{StopCode: row.code, StopReason: reason}); got != row.want {
				t.Errorf("%s %q:\n%s %s\nwant\n%s %s", row.code, reason, got.Code, got.Message, row.want.Code, row.want.Message)
			}
		}
	}
}

// The texts of ECS begin in several ways, and then quote an error of Go, of AWS's SDK, of
// AWS or of a registry. The beginning and the quoted error decide which failure it is.
func TestQuotedErrorsAreExplained(t *testing.T) {
	const (
		pull     = "CannotPullContainerError: ref pull has been retried 1 time(s): "
		registry = "ResourceInitializationError: unable to pull secrets or registry auth: "
		logs     = "ResourceInitializationError: failed to validate logger args: "
	)
	for _, group := range []struct {
		quoted []string
		want   map[string]Failure // by the beginning of the text
	}{
		{[]string{
			// Packages net, net/http, io and context of Go.
			"dial tcp 10.0.0.1:443: connect: no route to host",
			"read tcp 10.0.0.9:38012->10.0.0.1:443: i/o timeout",
			"lookup api.ecr.us-east-1.amazonaws.com on 10.0.0.2:53: no such host",
			"connect: connection refused", "connect: connection timed out", "read: connection reset by peer",
			"net/http: TLS handshake timeout", "net/http: request canceled", "(Client.Timeout exceeded while awaiting headers)",
			"unexpected EOF", "context canceled", "context deadline exceeded",
			// AWS SDK for Go, versions 1 and 2.
			"RequestError: send request failed", "https response error StatusCode: 0, RequestID: , request send failed", "RequestCanceled: request",
			// The agent of Fargate.
			"signal: killed", "There is a connection issue", "Check your network configuration", "Check your network connection",
		}, map[string]Failure{pull: failureImageRoute, registry: failureRoute, logs: failureRoute}},
		{[]string{
			"AccessDeniedException: User: arn", "<Code>AccessDenied</Code>", "Access Denied", "User: arn is not authorized to perform: x",
			"with an explicit deny in a service control policy", "UnauthorizedOperation: You", "401 Unauthorized", "403 Forbidden", "no basic auth credentials",
		}, map[string]Failure{pull: failureImageDenied, registry: failurePermission, logs: failurePermission}},
		{[]string{"429 Too Many Requests", "toomanyrequests: Rate", "You have reached your pull rate limit", "Rate exceeded"}, map[string]Failure{pull: failureImageRate}},
		{[]string{"no matching manifest for linux/arm64/v8", "no match for platform in manifest: not found"}, map[string]Failure{pull: failureImagePlatform}},
		{[]string{"not found", "RepositoryNotFoundException", "The repository does not exist in the registry", "manifest unknown"}, map[string]Failure{pull: failureImageAbsent}},
	} {
		for start, want := range group.want {
			for _, quoted := range group.quoted {
				if got := explain(Task{StopCode: "TaskFailedToStart", StopReason: start + quoted}); got != want {
					t.Errorf("%s%s: %s %s", start, quoted, got.Code, got.Message)
				}
			}
		}
	}
}

// Without any one entry of stopReasons, at least one row has another failure. So an entry
// that is no longer needed fails this test.
func TestEveryStopReasonIsUsed(t *testing.T) {
	all := stopReasons
	defer func() { stopReasons = all }()
	for i, entry := range all {
		stopReasons = slices.Delete(slices.Clone(all), i, i+1)
		needed := false
		for _, row := range stopReasonRows {
			needed = needed || explain(Task{StopCode: row.code, StopReason: row.reason}) != row.want
		}
		if !needed {
			t.Errorf("no row needs the entry %q %q", entry.in, entry.parts)
		}
	}
}

func TestExitCodesAreExplained(t *testing.T) {
	for _, row := range []struct {
		stopCode string
		exitCode int
		want     FailureCode
		words    string
	}{
		{"EssentialContainerExited", ExitNoLease, FailureLease, "had no lease for it in time"},
		{"EssentialContainerExited", ExitUnreachable, FailureLease, "route to DynamoDB"},
		{"EssentialContainerExited", ExitDenied, FailureLease, "policies of the task role"},
		{"EssentialContainerExited", ExitNoTable, FailureLease, "the table's name and the region"},
		{"EssentialContainerExited", ExitFailure, FailureCrash, "code 1."},
		{"EssentialContainerExited", 137, FailureCrash, "code 137."},
		{"", 2, FailureCrash, "code 2."},
		{"SpotInterruption", ExitTerminated, FailureSpot, "Spot"},
		{"UserInitiated", ExitTerminated, FailureStopped, "stopped the bastion's task"},
	} {
		got := explain(Task{StopCode: row.stopCode, StopReason: "Essential container in task exited", ExitCode: &row.exitCode})
		if got.Code != row.want || !strings.Contains(got.Message, row.words) {
			t.Errorf("%s, exit code %d: %+v, want %s and %q", row.stopCode, row.exitCode, got, row.want, row.words)
		}
	}
}

// A message says what happened and what to do next.
func TestMessagesOfFailuresAreSentences(t *testing.T) {
	messages := []string{failureEndedEarly.Message, failureTaskLost.Message, failureStopped.Message, failureSpot.Message, failureStart.Message}
	for _, entry := range stopReasons {
		messages = append(messages, entry.failure.Message)
	}
	for _, failure := range leaseFailures {
		messages = append(messages, failure.Message)
	}
	for _, message := range messages {
		next := slices.ContainsFunc([]string{"Request the bastion again", "Try again", "sk your operator"}, func(part string) bool { return strings.Contains(message, part) })
		if !strings.HasSuffix(message, ".") || !next {
			t.Errorf("%q does not end with what to do next", message)
		}
	}
}
