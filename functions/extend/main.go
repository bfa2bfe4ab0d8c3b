// Command extend is the function for PATCH.
package main

import (
	"net/http"

	"github.com/aws/aws-lambda-go/lambda"

	"github.com/bastion-on-demand/bastion/internal/lambdamode"
)

func main() { lambda.Start(lambdamode.Start().API(http.MethodPatch).Handle) }
