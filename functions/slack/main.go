// Command slack is the function behind Slack's requests and the pages that people
// open from Slack.
package main

import (
	"github.com/aws/aws-lambda-go/lambda"

	"github.com/bastion-on-demand/bastion/internal/lambdamode"
)

func main() {
	lambda.Start(lambdamode.StartSlack().Handle)
}
