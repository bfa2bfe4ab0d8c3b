// Command observer is the function for task events and the stream of leases.
package main

import (
	"github.com/aws/aws-lambda-go/lambda"

	"github.com/bastion-on-demand/bastion/internal/lambdamode"
)

func main() {
	lambda.Start(lambdamode.Start().Observer().Handle)
}
