// Command describe is the function for GET, HEAD and unknown paths.
package main

import (
	"net/http"

	"github.com/aws/aws-lambda-go/lambda"

	"github.com/bastion-on-demand/bastion/internal/lambdamode"
)

func main() { lambda.Start(lambdamode.Start().API(http.MethodGet, http.MethodHead).Handle) }
