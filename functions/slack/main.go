// Command slack is the function for Slack's requests, the pages that its users open,
// jobs and notices.
package main

import (
	"github.com/aws/aws-lambda-go/lambda"

	"github.com/bastion-on-demand/bastion/internal/lambdamode"
)

func main() {
	lambda.Start(lambdamode.StartSlack().Handle)
}
