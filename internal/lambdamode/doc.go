// Package lambdamode wires the service on AWS, as localmode does on a laptop: the
// domain on awscloud, told by config, behind API Gateway, schedules and events.
// The mains in functions/ choose which part of it each function serves.
package lambdamode
