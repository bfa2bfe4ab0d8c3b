// Package deploy puts the service into an AWS account and takes it out again.
//
// A deployment is a list of steps in a fixed order, each of which may be repeated:
// checks, registry, build, push, verify, deploy, smoke request. A dry run prints
// the same list and calls nobody. Templates are packaged and deployed by the AWS
// SAM CLI, as a process; what is left to do around it (look before, ask after, and
// close what runs before taking away) calls AWS through the interfaces in cloud.go.
package deploy
