// Command reaper is the function for the schedules.
package main

import (
	"github.com/aws/aws-lambda-go/lambda"

	"github.com/bastion-on-demand/bastion/internal/lambdamode"
)

func main() {
	lambda.Start(lambdamode.Start().Reaper().Handle)
}
