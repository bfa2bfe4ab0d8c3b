// Command describe is the function behind GET, and behind paths that there are not.
package main

import (
	"github.com/aws/aws-lambda-go/lambda"

	"github.com/bastion-on-demand/bastion/internal/httpapi"
	"github.com/bastion-on-demand/bastion/internal/lambdamode"
)

func main() {
	app := lambdamode.Start()
	lambda.Start(app.EntryPoints(httpapi.OnlyDescribe(app.Service)).Handle)
}
