// Command create is the function behind POST /bastions.
package main

import (
	"github.com/aws/aws-lambda-go/lambda"

	"github.com/bastion-on-demand/bastion/internal/httpapi"
	"github.com/bastion-on-demand/bastion/internal/lambdamode"
)

func main() {
	app := lambdamode.Start()
	lambda.Start(app.EntryPoints(httpapi.OnlyCreate(app.Service, app.Config.Draining)).Handle)
}
