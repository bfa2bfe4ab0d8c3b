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

// use is what AWS itself does with a role, so that no call of ours shows it.
type use struct {
	Role    string
	Needs   []Permission
	By      string // who does it, and what for
	Sources []string
	Why     string // of "*": why there is nothing narrower
}

// platform is every use there is.
var platform = []use{
	writesLog("Create"), writesLog("Describe"), writesLog("Extend"), writesLog("Destroy"), writesLog("Reaper"), writesLog("Observer"), writesLog("Slack"),
	sendsFailures("Reaper"), sendsFailures("Observer"), sendsFailures("Slack"),
	{"ObserverRole", []Permission{
		p("dynamodb:DescribeStream", "LeasesTable.StreamArn"), p("dynamodb:GetRecords", "LeasesTable.StreamArn"),
		p("dynamodb:GetShardIterator", "LeasesTable.StreamArn"), p("dynamodb:ListStreams", "*"),
	}, "Lambda polls the stream of leases for the observer.", []string{aboutStreams, aboutDynamoDB},
		"AWS takes no narrower resource for ListStreams, which tells names and no content."},
	{"ExecutionRole", []Permission{
		p("ecr:BatchCheckLayerAvailability", "repository/${Name}"), p("ecr:BatchGetImage", "repository/${Name}"),
		p("ecr:GetDownloadUrlForLayer", "repository/${Name}"), p("ecr:GetAuthorizationToken", "*"),
	}, "ECS pulls bastiond's image before a task starts.", []string{aboutPullLogs, aboutECR},
		"A token is for the whole registry: AWS takes no narrower resource for it."},
	{"ExecutionRole", []Permission{p("logs:CreateLogStream", "TaskLogGroup"), p("logs:PutLogEvents", "TaskLogGroup")},
		"Fargate writes what bastiond prints, which is the audit log.", []string{aboutPullLogs, aboutLogs}, ""},
	{"ScheduleRole", []Permission{p("lambda:InvokeFunction", "ReaperFunction"), p("sqs:SendMessage", "DeadLetters")},
		"EventBridge Scheduler runs the reaper, and puts what it could not deliver where the alarm looks.", []string{aboutScheduler}, ""},
}

func writesLog(function string) use {
	group := function + "LogGroup"
	return use{function + "Role", []Permission{p("logs:CreateLogStream", group), p("logs:PutLogEvents", group)},
		"Lambda writes what the function prints into its own log.", []string{aboutFunctions, aboutLogs}, ""}
}

func sendsFailures(function string) use {
	return use{function + "Role", []Permission{p("sqs:SendMessage", "DeadLetters")},
		"Lambda puts an event that it gave up on where the alarm looks.", []string{aboutAsync}, ""}
}

// Platform lists, sorted, what the platform needs of a role.
func Platform(role string) []Permission {
	var needed []Permission
	for _, u := range platform {
		if u.Role == role {
			needed = slices.Concat(needed, u.Needs)
		}
	}
	return sorted(needed)
}

// Broad are the actions that are allowed on everything, each with the reason why
// there is nothing narrower.
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
