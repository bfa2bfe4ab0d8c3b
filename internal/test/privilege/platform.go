package privilege

import "slices"

const (
	aboutLogs      = reference + "list_amazoncloudwatchlogs.html"
	aboutECR       = reference + "list_amazonelasticcontainerregistry.html"
	aboutPullLogs  = "https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task_execution_IAM_role.html"
	aboutAsync     = "https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html"
	aboutStreams   = "https://docs.aws.amazon.com/lambda/latest/dg/with-ddb.html"
	aboutFunctions = "https://docs.aws.amazon.com/lambda/latest/dg/lambda-intro-execution-role.html"
	aboutScheduler = "https://docs.aws.amazon.com/scheduler/latest/UserGuide/setting-up.html"
)

// use is a use of a role by AWS itself, which no recorded call shows.
type use struct {
	Role    string
	Needs   []Permission
	By      string // the service, and its purpose
	Sources []string
	Why     string // for "*": why there is nothing narrower
}

// platform has every use.
var platform = []use{
	writesLog("Create"), writesLog("Describe"), writesLog("Extend"), writesLog("Destroy"), writesLog("Reaper"), writesLog("Observer"), writesLog("Slack"),
	sendsFailures("Reaper"), sendsFailures("Observer"), sendsFailures("Slack"),
	{"ObserverRole", []Permission{
		p("dynamodb:DescribeStream", "LeasesTable.StreamArn"), p("dynamodb:GetRecords", "LeasesTable.StreamArn"),
		p("dynamodb:GetShardIterator", "LeasesTable.StreamArn"), p("dynamodb:ListStreams", "*"),
	}, "Lambda polls the stream of leases for the observer.", []string{aboutStreams, aboutDynamoDB},
		"AWS accepts no narrower resource for ListStreams, which returns names and no content."},
	{"ExecutionRole", []Permission{
		p("ecr:BatchCheckLayerAvailability", "repository/${Name}"), p("ecr:BatchGetImage", "repository/${Name}"),
		p("ecr:GetDownloadUrlForLayer", "repository/${Name}"), p("ecr:GetAuthorizationToken", "*"),
	}, "ECS pulls bastiond's image before a task starts.", []string{aboutPullLogs, aboutECR},
		"A token is for the whole registry: AWS accepts no narrower resource."},
	{"ExecutionRole", []Permission{p("logs:CreateLogStream", "TaskLogGroup"), p("logs:PutLogEvents", "TaskLogGroup")},
		"Fargate writes bastiond's output, which is the audit log.", []string{aboutPullLogs, aboutLogs}, ""},
	{"ScheduleRole", []Permission{p("lambda:InvokeFunction", "ReaperFunction"), p("sqs:SendMessage", "DeadLetters")},
		"EventBridge Scheduler runs the reaper, and sends failed deliveries to the dead letter queue.", []string{aboutScheduler}, ""},
}

func writesLog(function string) use {
	group := function + "LogGroup"
	return use{function + "Role", []Permission{p("logs:CreateLogStream", group), p("logs:PutLogEvents", group)},
		"Lambda writes the function's output to its log.", []string{aboutFunctions, aboutLogs}, ""}
}

func sendsFailures(function string) use {
	return use{function + "Role", []Permission{p("sqs:SendMessage", "DeadLetters")},
		"Lambda sends failed events to the dead letter queue.", []string{aboutAsync}, ""}
}

// Platform returns the permissions that AWS itself needs from a role, sorted.
func Platform(role string) []Permission {
	var needed []Permission
	for _, u := range platform {
		if u.Role == role {
			needed = slices.Concat(needed, u.Needs)
		}
	}
	return sorted(needed)
}

// Broad returns the actions that are allowed on "*", each with the reason.
func Broad() map[string]string {
	broad := map[string]string{}
	add := func(needs []Permission, why string) {
		for _, p := range needs {
			if p.On == "*" {
				broad[p.Action] = why
			}
		}
	}
	for _, r := range table {
		add(r.Needs, r.Why)
	}
	for _, u := range platform {
		add(u.Needs, u.Why)
	}
	return broad
}
